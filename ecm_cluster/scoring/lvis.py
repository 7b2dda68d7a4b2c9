"""lvis-api as the reference: its own code decides every match and every precision.

It is what other scorers are compared with, and what scores on Python below 3.10, which hotcoco does not support.

Run as it ships, lvis-api visits every pair of image and category, 24 million in LVIS v1 val, most of them empty, and
keeps a record of each. Categories do not influence each other, and a pair with neither ground truth nor a detection
adds nothing. So it is run category by category, each on the images that contain objects of the category or are known
to be free of it. Results are equal to the last bit.

Imported by :mod:`.scorers` when it scores, since it needs lvis, numpy and pycocotools.
"""

from __future__ import annotations

import types
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from lvis import LVIS, LVISEval, LVISResults

from . import metrics
from .detections import Detections, strongest
from .metrics import Curves, Progress


def _with_numpy_float(function: types.FunctionType) -> types.FunctionType:
    """The same code, in globals of its own where ``np.float`` exists, which numpy 1.24 removed."""
    numpy = types.SimpleNamespace(**{**vars(np), "float": float})
    return types.FunctionType(function.__code__, {**function.__globals__, "np": numpy}, function.__name__,
                              function.__defaults__, function.__closure__)


class _Shared(dict):
    """A dataset whose images and categories lvis-api would deep-copy for every set of results."""

    def __deepcopy__(self, memo: dict) -> _Shared:
        return _Shared(self)


class LvisTruth(LVIS):
    """LVIS ground truth from a parsed annotation file."""

    dataset: dict[str, Any]

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        super().__init__("")
        self.dataset = _Shared(self.dataset)

    def _load_json(self, path: str) -> Any:
        return self._document


class _Results(LVISResults):
    """Results in memory, possibly none, which lvis-api does not support."""

    def __init__(self, ground_truth: LvisTruth, results: list[dict[str, Any]]) -> None:
        self._given = results
        if results:
            # a "path", not the list: for a list lvis-api calls logger.warn, which Python 3.13 lacks. No limit
            # here: it applies to all categories of an image together, and has been applied already
            super().__init__(ground_truth, "", max_dets=-1)
        else:
            self.dataset = {**ground_truth.dataset, "annotations": []}
            self.logger = ground_truth.logger
            self._create_index()

    def _load_json(self, path: str) -> Any:
        return self._given


class NumpySafeEval(LVISEval):
    """lvis-api's evaluation on a numpy without ``np.float``."""

    accumulate = _with_numpy_float(LVISEval.accumulate)


def score(document: dict[str, Any], found: Detections, iou_types: Sequence[str], limits: Sequence[int],
          thresholds: Sequence[float], on_progress: Progress | None) -> dict[str, Curves]:
    """See :data:`ecm_cluster.scoring.scorers.Score`."""
    truth, curves = LvisTruth(document), {}
    for iou_type in iou_types:
        def on_category(done: int, total: int, iou_type: str = iou_type) -> None:
            if on_progress:
                on_progress(iou_type, done, total)

        arrays = evaluate(truth, found, iou_type, limits[-1], on_category)
        curves[iou_type] = metrics.of_lvis(*arrays, document["categories"], limits[-1])
    return curves


def evaluate(truth: LvisTruth, found: Detections, iou_type: str, max_dets: int = 300,
             on_category: Callable[[int, int], None] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Evaluate by lvis-api.

    Args:
        truth: of LVIS form; for ``segm`` its polygons become run lengths, in place, as in lvis-api.
        max_dets: maximum detections per image.
        on_category: called with (categories done, categories in all).

    Returns:
        Precision (10 thresholds, 101 recalls, categories, 4 areas) and recall, -1 where undefined.
    """
    whole = NumpySafeEval(truth, _Results(truth, []), iou_type)
    categories = whole.params.cat_ids
    shape = (len(whole.params.iou_thrs), len(categories), len(whole.params.area_rng))
    precision = -np.ones((shape[0], len(whole.params.rec_thrs), *shape[1:]))
    recall = -np.ones(shape)
    free_of = defaultdict(list)
    for image in truth.dataset["images"]:
        for category in image["neg_category_ids"]:
            free_of[category].append(image["id"])
    found = found.take(strongest(found.image_id, found.scores(iou_type), max_dets))
    found = found.take(np.argsort(found.category_id, kind="stable"))
    begins, ends = (np.searchsorted(found.category_id, categories, side) for side in ("left", "right"))
    for at, category in enumerate(categories):
        present = set(truth.cat_img_map.get(category, ()))
        if present:  # a category without ground truth stays undefined
            images = sorted(present.union(free_of[category]))
            rows = found.take(slice(begins[at], ends[at]))
            rows = rows.take(np.isin(rows.image_id, images))
            part = _one_category(truth, rows, iou_type, category, images)
            precision[:, :, at], recall[:, at] = part["precision"][:, :, 0], part["recall"][:, 0]
        if on_category:
            on_category(at + 1, len(categories))
    return precision, recall


def _one_category(ground_truth: LvisTruth, found: Detections, iou_type: str, category: int,
                  images: list[int]) -> dict[str, np.ndarray]:
    """lvis-api's precision and recall for one category on ``images``."""
    part = LvisTruth(dict(images=ground_truth.load_imgs(images), annotations=[],
                               categories=ground_truth.load_cats([category])))
    evaluation = NumpySafeEval(ground_truth, _Results(part, found.to_lvis_results(iou_type)), iou_type)
    evaluation.params.img_ids, evaluation.params.cat_ids = images, [category]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval
