"""pycocotools as the scorer, for annotation files in plain COCO form: no frequencies, no federated lists.

Imported by :mod:`.scoring` when it scores, since it needs numpy and pycocotools.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .columns import Detections


def evaluate(document: dict[str, Any], found: Detections, iou_type: str, max_dets: int = 300,
             ) -> tuple[dict[str, float], np.ndarray]:
    """Evaluate by pycocotools.

    Masks are sorted into small, medium and large by their own area, as mmdet does for COCO. ``max_dets``
    limits the detections of each image *and category*, which is COCO's rule.

    Returns:
        Figures by the names that lvis-api uses (-1 where undefined; no APr, APc, APf), and precision of shape
        (10 thresholds, 101 recalls, categories by ascending id, 4 areas).
    """
    results = found.to_lvis_results(iou_type)
    for result in results if iou_type == "segm" else ():
        del result["bbox"]
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = _coco(document)
        # pycocotools fails on an empty list
        detected = ground_truth.loadRes(results) if results else _coco({**document, "annotations": []})
        evaluation = COCOeval(ground_truth, detected, iou_type)
        evaluation.params.maxDets = [1, 10, max_dets]
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = evaluation.eval["precision"][..., -1], evaluation.eval["recall"][..., -1]
    thresholds = evaluation.params.iouThrs
    figures = {"AP": _mean(precision[..., 0]), "AP50": _mean(precision[thresholds == 0.5, ..., 0]),
               "AP75": _mean(precision[thresholds == 0.75, ..., 0])}
    figures.update({f"AP{area}": _mean(precision[..., i]) for i, area in enumerate("sml", 1)})
    figures.update({f"AR{area}@{max_dets}": _mean(recall[..., i]) for i, area in enumerate(("", *"sml"))})
    return figures, precision


def _coco(document: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = document
    coco.createIndex()
    return coco


def _mean(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(np.mean(defined)) if len(defined) else -1.0
