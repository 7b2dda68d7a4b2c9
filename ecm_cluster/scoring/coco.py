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

USUAL = 100  # detections of an image and class at which COCO takes AP


def evaluate(document: dict[str, Any], found: Detections, iou_type: str, limits: Sequence[int] = (1, 10, USUAL),
             iou_thrs: Sequence[float] = ()) -> tuple[dict[str, float], np.ndarray]:
    """Evaluate by pycocotools, as mmdet's ``CocoDataset.evaluate`` does it.

    Masks are sorted into small, medium and large by their own area. An object without ``iscrowd`` is no crowd.

    Args:
        document: Images, annotations and categories that count, and no others; all ids are whole numbers.
        found: Detections on its images.
        limits: Detections of each image *and category* that count (``proposal_nums`` of mmdet), ascending. AP is taken
            at 100 where that is one of them, as pycocotools has it, and else, as everything else, at the last.
        iou_thrs: Overlaps to average over; none: 0.5 to 0.95.

    Returns:
        Figures by the names that lvis-api uses (-1 where undefined; no APr, APc, APf) with a recall for each limit,
        and precision at the last limit of shape (thresholds, 101 recalls, categories by ascending id, 4 areas).
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
    usual = list(limits).index(USUAL) if USUAL in limits else -1
    last, most, thresholds = precision[..., -1], limits[-1], evaluation.params.iouThrs
    figures = {"AP": _mean(precision[..., 0, usual]), "AP50": _mean(last[thresholds == 0.5, ..., 0]),
               "AP75": _mean(last[thresholds == 0.75, ..., 0])}
    figures.update({f"AP{area}": _mean(last[..., i]) for i, area in enumerate("sml", 1)})
    figures.update({f"AR@{limit}": _mean(recall[..., 0, i]) for i, limit in enumerate(limits)})
    figures.update({f"AR{area}@{most}": _mean(recall[..., i, -1]) for i, area in enumerate("sml", 1)})
    return figures, last


def _coco(document: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = {**document, "annotations": [{"iscrowd": 0, **a} for a in document["annotations"]]}
    coco.createIndex()
    return coco


def _mean(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(np.mean(defined)) if len(defined) else -1.0
