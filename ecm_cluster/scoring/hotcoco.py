"""hotcoco as the scorer: lvis-api's arrays to the last bit, from columns, in Rust.

hotcoco and vernier both give these arrays on ordinary files, at about the same speed (benchmarks/README.md). hotcoco
was chosen because it accepts detections *and* federated ground truth as arrays, where vernier reads the federated lists
from JSON text only; because it scores everything that lvis-api scores, where vernier rejects a category that is listed
as absent and present, or not exhaustively annotated; and because it needs numpy alone, where vernier needs pyarrow.
Where it differs from lvis-api (cases in tests/scoring/test_fast_scoring.py) the input is prepared so that it cannot
matter:

- objects and detections without area are dropped, as in lvis-api;
- the maximum of detections per image is applied before that, over all categories; of equal scores the first are kept;
- detections in categories that are known neither to be in the image nor to be absent from it are dropped, as in
  lvis-api, and masks are passed only where there is an object to compare them with;
- an object with ``ignore`` gets an area beyond all ranges: hotcoco knows ``iscrowd`` only, lvis-api ``ignore`` only;
- detections are passed as rows with a box, whose area then counts for ``segm`` too, as in lvis-api;
- polygons that pycocotools reads differently are encoded by pycocotools;
- ids are positions in ascending order, so none is too large for a column of doubles;
- an object with the id 0 consumes its detection, which still counts as a false positive; its category is accumulated in
  :mod:`.matches`.

Imported by :mod:`.scorers` when it scores, since it needs hotcoco and numpy.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import hotcoco
import numpy as np

from ..base.errors import UserError
from . import metrics
from .detections import Detections, no_collection
from .matches import Accumulator, Admitted, GroundTruth, Matches, admit, contains
from .metrics import Curves, Progress

NO_MASK = {"size": [1, 1], "counts": b"1"}  # where it is never read
CHUNK = 250  # images whose matches are in Python objects at a time: about 100 MB


def score(document: dict[str, Any], found: Detections, iou_types: Sequence[str], limits: Sequence[int],
          thresholds: Sequence[float], on_progress: Progress | None) -> dict[str, Curves]:
    """See :data:`ecm_cluster.scoring.scorers.Score`."""
    truth, curves = GroundTruth(document), {}
    for iou_type in iou_types:
        curves[iou_type] = metrics.of_lvis(*evaluate(truth, found, iou_type, limits[-1]), document["categories"],
                                           limits[-1])
        if on_progress:
            on_progress(iou_type, len(truth.categories), len(truth.categories))
    return curves


def evaluate(truth: GroundTruth, found: Detections, iou_type: str, max_dets: int = 300,
             ) -> tuple[np.ndarray, np.ndarray]:
    """Precision (10, 101, K, 4) and recall (10, K, 4) as lvis-api's ``accumulate`` leaves them.

    Args:
        found: detections on images of ``truth``; scores and boxes are finite.
        max_dets: maximum detections per image.
    """
    admitted = admit(truth, found, iou_type, max_dets)
    evaluation = _evaluator(_dataset(truth, iou_type), found, admitted, iou_type, max_dets)
    evaluation.evaluate()
    evaluation.accumulate()
    arrays: Any = evaluation.eval
    precision, recall = arrays["precision"][..., 0], arrays["recall"][..., 0]
    odd = np.unique(truth.category[truth.zero])
    if len(odd):
        own = Accumulator(find_matches(truth, found, iou_type, max_dets, odd.tolist()))()
        precision[:, :, odd], recall[:, odd] = own[0][:, :, odd], own[1][:, odd]
    return precision, recall


def _dataset(truth: GroundTruth, iou_type: str) -> hotcoco.COCO:
    """For hotcoco; object i has the id i + 1."""
    records, absent, unfinished = truth.records, truth.absent, truth.unfinished
    if iou_type == "segm" and not all("height" in r and "width" in r for r in records):
        raise UserError("images: height or width is missing; masks are compared on images of known size")
    images = [{"id": at, "height": r.get("height", 0), "width": r.get("width", 0), "neg_category_ids": [],
               "not_exhaustive_category_ids": []} for at, r in enumerate(records)]
    for field, codes in (("neg_category_ids", absent), ("not_exhaustive_category_ids", unfinished)):
        for image, category in zip(*(part.tolist() for part in np.divmod(codes, len(truth.categories)))):
            images[image][field].append(category)
    categories = [{"id": at, "name": f"{at}"} for at in range(len(truth.categories))]
    boxes = np.array([a.get("bbox", (0, 0, 0, 0)) for a in truth.annotations], np.float64).reshape(-1, 4)
    # in a form that hotcoco and pycocotools read alike
    masks = None if iou_type == "bbox" else [
        a["segmentation"] if _is_plain(a["segmentation"]) else _encoded(a["segmentation"], records[at])
        for a, at in zip(truth.annotations, truth.image.tolist())]
    return hotcoco.COCO.from_arrays(
        images, categories, truth.image, truth.category, boxes, ids=np.arange(1, len(boxes) + 1), area=truth.area,
        iscrowd=np.zeros(len(boxes), bool), segmentation=masks)


def _evaluator(dataset: hotcoco.COCO, found: Detections, admitted: Admitted, iou_type: str, max_dets: int,
               ) -> hotcoco.COCOeval:
    """Detection i of ``admitted`` has the id i + 1."""
    rows = admitted.rows
    table = np.column_stack([admitted.image, found.bbox[rows], admitted.score, admitted.category])
    with no_collection():
        masks = _masks(found, admitted) if iou_type == "segm" else None
        detected = dataset.load_res(np.ascontiguousarray(table, np.float64), segmentation=masks)
    # the limit has been applied: without this hotcoco would apply its own of 300
    evaluation = hotcoco.COCOeval(dataset, detected.cap_detections_per_image(None), iou_type, lvis_style=True)
    evaluation.params.max_dets = [max_dets]
    return evaluation


def _masks(found: Detections, admitted: Admitted) -> list[Any]:
    assert found.masks is not None
    counts = np.ascontiguousarray(found.masks.counts).data
    masks = [NO_MASK] * len(admitted.rows)
    at = np.flatnonzero(admitted.compared)
    begin, end = (part.tolist() for part in found.masks.span[admitted.rows[at]].T)
    size = found.masks.size[admitted.rows[at]].astype(np.int64)
    codes, which = np.unique(size[:, 0] << 32 | size[:, 1], return_inverse=True)
    sizes = [[code >> 32, code & 0xFFFFFFFF] for code in codes.tolist()]  # few distinct ones, shared
    for row, b, e, k in zip(at.tolist(), begin, end, which.tolist()):
        masks[row] = {"size": sizes[k], "counts": bytes(counts[b:e])}
    return masks


def find_matches(truth: GroundTruth, found: Detections, iou_type: str, max_dets: int = 300,
                 only: Collection[int] | None = None) -> Matches:
    """Which detection matches which object, from hotcoco's records of each image and category.

    Looks at the categories at the positions ``only``, or at all; the rest is as for :func:`evaluate`.
    """
    admitted = admit(truth, found, iou_type, max_dets)
    if only is not None:
        admitted = admitted.take(np.isin(admitted.category, list(only)))
    code = truth.code(admitted.image, admitted.category)
    outside = np.stack([(admitted.area < low) | (admitted.area > high) for low, high in metrics.AREA_RANGES])
    excused = outside | contains(truth.unfinished, code)  # an unmatched detection is ignored there
    shape = (len(outside), len(metrics.iou_thresholds()), len(code))
    matched = np.zeros(shape, bool)
    ignored = np.repeat(excused[:, None], shape[1], axis=1)
    compared = np.flatnonzero(admitted.compared)  # only these can hit
    evaluation = _evaluator(_dataset(truth, iou_type), found, admitted.take(compared), iou_type, max_dets)
    zero = set((np.flatnonzero(truth.zero) + 1).tolist())
    images = np.unique(admitted.image[compared]).tolist()
    for begin in range(0, len(images), CHUNK):
        evaluation.params.img_ids = images[begin:begin + CHUNK]
        evaluation.evaluate()
        for at, record in enumerate(evaluation.eval_imgs):
            if record is not None and record["dtIds"]:
                _note(record, at % shape[0], compared, excused, matched, ignored, zero)
    pairs, position = np.unique(truth.code(truth.image, truth.category), return_inverse=True)
    truths = np.zeros((len(pairs), shape[0]), np.int64)
    for area, (low, high) in enumerate(metrics.AREA_RANGES):
        truths[:, area] = np.bincount(position, (truth.area >= low) & (truth.area <= high), len(pairs))
    return Matches(len(truth.images), len(truth.categories), admitted.image, admitted.category, admitted.score,
                   matched, ignored, *np.divmod(pairs, len(truth.categories)), truths)


def _note(record: dict[str, Any], area: int, compared: np.ndarray, excused: np.ndarray, matched: np.ndarray,
          ignored: np.ndarray, zero: set[int]) -> None:
    """One image, category and range of areas."""
    assert tuple(record["aRng"]) == metrics.AREA_RANGES[area]
    rows = compared[np.array(record["dtIds"], np.int64) - 1]
    hit, ignore = np.array(record["dtMatched"], bool), np.array(record["dtIgnore"], bool)
    for gt in zero.intersection(record["gtIds"]):  # lvis-api reads "matched the object 0" as "matched nothing"
        nothing = np.array(record["dtMatches"]) == gt
        hit &= ~nothing
        ignore |= nothing & excused[area, rows]
    matched[area][:, rows], ignored[area][:, rows] = hit, ignore


def _is_plain(segmentation: Any) -> bool:
    """An encoding, or polygons of three points or more: what all libraries read alike."""
    return isinstance(segmentation, dict) or (
        bool(segmentation) and all(len(part) >= 6 and len(part) % 2 == 0 for part in segmentation))


def _encoded(segmentation: Any, image: dict[str, Any]) -> dict[str, Any]:
    """As lvis-api's ``ann_to_rle`` does."""
    from pycocotools import mask as mask_utils

    try:
        return mask_utils.merge(mask_utils.frPyObjects(segmentation, image["height"], image["width"]))
    except (TypeError, ValueError, IndexError) as error:
        raise UserError(f"annotations: image {image['id']} has a segmentation that is not a mask ({error}); an object "
                        "needs a polygon of three points or more, or an encoding") from error
