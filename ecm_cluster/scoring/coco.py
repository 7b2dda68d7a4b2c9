"""pycocotools as the scorer, by COCO's rule: no frequencies, no federated lists.

Imported by :mod:`.scoring` when it scores, since it needs numpy and pycocotools.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .detections import Detections
from .metrics import Curves, Progress

USUAL = 100  # maximum detections per image and class at which pycocotools takes AP


def score(document: dict[str, Any], found: Detections, iou_types: Sequence[str], limits: Sequence[int],
          thresholds: Sequence[float], on_progress: Progress | None) -> dict[str, Curves]:
    """See :data:`ecm_cluster.scoring.scorers.Score`; all ids are integers."""
    return {iou_type: evaluate(document, found, iou_type, limits, thresholds) for iou_type in iou_types}


def evaluate(document: dict[str, Any], found: Detections, iou_type: str, limits: Sequence[int] = (1, 10, USUAL),
             iou_thrs: Sequence[float] = ()) -> Curves:
    """Evaluate by pycocotools, as mmdet's ``CocoDataset.evaluate`` does.

    Masks are sorted into small, medium and large by their own area. An object without ``iscrowd`` is not a crowd.

    Args:
        document: Images, annotations and categories to score, and no others.
        limits: Maximum detections per image *and category* (``proposal_nums`` of mmdet), ascending. AP is taken at 100
            if that is one of them, as in pycocotools, and otherwise, like everything else, at the last.
        iou_thrs: Overlaps to average over; none: 0.5 to 0.95.
    """
    results = found.to_lvis_results(iou_type)
    for result in results if iou_type == "segm" else ():
        del result["bbox"]
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = _coco(document)
        # pycocotools fails on an empty list
        detected = ground_truth.loadRes(results) if results else _coco({**document, "annotations": []})
        evaluation = COCOeval(ground_truth, detected, iou_type)
        evaluation.params.maxDets = list(limits)
        if len(iou_thrs):
            evaluation.params.iouThrs = np.array(iou_thrs, np.float64)
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    usual = precision[..., list(limits).index(USUAL)] if USUAL in limits else None
    return Curves(precision[..., -1], {limit: recall[..., at] for at, limit in enumerate(limits)},
                  np.asarray(evaluation.params.iouThrs), {}, usual)


def _coco(document: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = {**document, "annotations": [{"iscrowd": 0, **a} for a in document["annotations"]]}
    coco.createIndex()
    return coco
