"""The content of ``analysis.json``: where a model goes wrong.

Confusions and the worst images use only detections above one score threshold: the one with the highest F1 over all
classes together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..scoring.detections import Detections
from ..scoring.metrics import FREQUENCIES
from . import tide
from .verdicts import CLS, IGNORED, RIGHT, Verdicts, judge

FORMAT = 1
BINS, CONFUSIONS, WORST = 10, 30, 12
MOST_BOXES = 100  # drawn on an image


def analyse(document: Mapping[str, Any], found: Detections, iou_type: str, rule: str, max_dets: int) -> dict[str, Any]:
    """The analysis of detections against the content of an annotation file.

    Args:
        rule, max_dets: As for :func:`.verdicts.judge`.

    Returns:
        Numbers and text that can be written as JSON. ``tide``: by ``all`` and, with LVIS's frequencies, ``r``, ``c``
        and ``f``; ``image`` of each entry of ``worst`` is None, for who has the images to fill in.
    """
    verdicts = judge(dict(document), found, iou_type, rule, max_dets)
    ordered = sorted(document["categories"], key=lambda c: c["id"])
    names = [str(c.get("name", c["id"])) for c in ordered]
    groups = {g: [k for k, c in enumerate(ordered) if c.get("frequency") == g] for g in FREQUENCIES}
    threshold = best_threshold(verdicts)
    return {"format": FORMAT, "iou_type": iou_type, "rule": rule, "max_dets": max_dets, "score_threshold": threshold,
            "tide": tide.delta_ap(verdicts, {g: members for g, members in groups.items() if members}),
            "confusions": confusions(verdicts, names, threshold), "calibration": calibration(verdicts),
            "worst": worst(verdicts, found, names, threshold)}


def best_threshold(verdicts: Verdicts) -> float:
    """The score from which on detections of all classes together have the highest F1; 0 where none is right."""
    order = np.argsort(-verdicts.score, kind="stable")
    order = order[verdicts.verdict[order] != IGNORED]
    right = np.cumsum(verdicts.verdict[order] == RIGHT)
    if not len(right) or not right[-1]:
        return 0.0
    f1 = 2 * right / (np.arange(1, len(right) + 1) + verdicts.counts.sum())
    return float(verdicts.score[order[np.argmax(f1)]])


def confusions(verdicts: Verdicts, names: Sequence[str], threshold: float) -> list[dict[str, Any]]:
    """The most frequent pairs of what an object is and what it was taken for."""
    rows = np.flatnonzero((verdicts.verdict == CLS) & ~verdicts.doubled & (verdicts.score >= threshold))
    code = verdicts.truth.code(verdicts.truth.category[verdicts.target[rows]], verdicts.category[rows])
    codes, count = np.unique(code, return_counts=True)
    first = np.argsort(-count, kind="stable")[:CONFUSIONS]
    pairs = zip(*(part[first].tolist() for part in (*np.divmod(codes, max(len(names), 1)), count)))
    return [{"truth": names[truth], "predicted": names[predicted], "count": n} for truth, predicted, n in pairs]


def calibration(verdicts: Verdicts) -> dict[str, Any]:
    """Whether a score says how often detections are right: the expected calibration error, and its bins.

    Over all detections that are right or wrong, in bins of equal width; ignored ones are left out.
    """
    rows = verdicts.verdict != IGNORED
    score, right = verdicts.score[rows], verdicts.verdict[rows] == RIGHT
    at = np.clip((score * BINS).astype(int), 0, BINS - 1)
    count, total, hits = (np.bincount(at, weight, BINS) for weight in (None, score, right))
    bins, ece = [], 0.0
    for k, n in enumerate(count.tolist()):
        confidence, precision = (total[k] / n, hits[k] / n) if n else (None, None)
        ece += abs(total[k] - hits[k]) / max(len(score), 1)
        bins.append({"low": k / BINS, "high": (k + 1) / BINS, "count": n, "confidence": confidence,
                     "precision": precision})
    return {"ece": float(ece) if len(score) else None, "bins": bins}


def worst(verdicts: Verdicts, found: Detections, names: Sequence[str], threshold: float) -> list[dict[str, Any]]:
    """The images with the most objects missed and detections wrong, with what is on them and what was detected."""
    truth, shown = verdicts.truth, verdicts.score >= threshold
    seen = np.zeros(len(verdicts.counts), bool)
    seen[verdicts.target[shown & (verdicts.verdict == RIGHT)]] = True
    wrong = shown & (verdicts.verdict != IGNORED) & (verdicts.verdict != RIGHT)
    missed = np.bincount(truth.image[verdicts.counts & ~seen], minlength=len(truth.images))
    false = np.bincount(verdicts.image[wrong], minlength=len(truth.images))
    faults = missed + false
    entries = []
    for image in np.argsort(-faults, kind="stable")[:WORST].tolist():
        if not faults[image]:
            break
        objects = np.flatnonzero(truth.image == image)
        rows = np.flatnonzero(shown & (verdicts.image == image))[:MOST_BOXES]
        record = truth.records[image]
        entries.append({
            "image": None, "width": record.get("width"), "height": record.get("height"), "image_id": record["id"],
            "missed": int(missed[image]), "false": int(false[image]),
            "truth": [{"box": _rounded(truth.annotations[i].get("bbox", ())), "name": names[truth.category[i]],
                       "found": bool(seen[i])} for i in objects.tolist()],
            "detections": [{"box": _rounded(found.bbox[verdicts.rows[n]]), "score": round(float(verdicts.score[n]), 4),
                            "name": names[verdicts.category[n]], "right": not bool(wrong[n])} for n in rows.tolist()]})
    return entries


def _rounded(box: Sequence[float]) -> list[float]:
    return [round(float(x), 1) for x in box]
