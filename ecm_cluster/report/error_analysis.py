"""Where the errors are: an evaluation's ``analysis.json``, as far as it is there and valid."""

from __future__ import annotations

import base64
import contextlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.reading import Maybe, Number, OptionalKey, Unreadable, check_inside, read_bytes, read_json
from ..reporting.results import Row
from ..scoring.metrics import FREQUENCIES
from .drawing import scales

LARGEST_IMAGE, LARGEST_IMAGES = 400_000, 1_500_000  # bytes of one image, and of all
MOST_IMAGES, MOST_BOXES, MOST_CONFUSIONS = 12, 24, 12
LETTER = (2.3, 6.0)  # of a name on an image, in percent of its sides where it is shown smallest
KINDS = {"Cls": "wrong class", "Loc": "poor localisation", "Both": "wrong class and poor localisation",
         "Dupe": "duplicate", "Bkg": "background", "Miss": "missed"}  # as in TIDE (Bolya et al. 2020)
GROUPS = {"all": "all", **FREQUENCIES}

_FRACTION = Maybe(Number(-1, 1, whole=False))
_COUNT = Number(0)
_SIDE = Number(1, 10**6, whole=False)
_BOX = [Number(-10**6, 10**6, whole=False)]
SHAPE: dict[Any, Any] = {
    OptionalKey("iou_type"): str, OptionalKey("tide"): {str: {str: _FRACTION}},
    OptionalKey("confusions"): [{"truth": str, "predicted": str, "count": _COUNT}],
    OptionalKey("calibration"): {"ece": _FRACTION, "bins": [{
        "low": _FRACTION, "high": _FRACTION, "count": _COUNT, "confidence": _FRACTION, "precision": _FRACTION}]},
    OptionalKey("worst"): [{
        "image": Maybe(str), "width": Maybe(_SIDE), "height": Maybe(_SIDE), "image_id": object,
        "missed": _COUNT, "false": _COUNT,
        "truth": [{"box": _BOX, "name": str, OptionalKey("found"): bool}],
        "detections": [{"box": _BOX, "score": _FRACTION, "name": str, OptionalKey("right"): bool}]}]}


@dataclass(frozen=True)
class Analysis:
    """Parts that are missing are empty."""

    kind: str
    tide: list[dict[str, Any]]
    confusions: list[dict[str, Any]]
    calibration: dict[str, Any] | None
    worst: list[dict[str, Any]]


def file_of(row: Row) -> Path:
    return row.work.analysis_file


def of(row: Row) -> Analysis | None:
    """The analysis beside a set of figures; None if there is none.

    Raises:
        Unreadable: It is damaged.
    """
    path = file_of(row)
    try:
        found = read_json(path, SHAPE)
    except FileNotFoundError:
        return None
    worst = found.get("worst", [])[:MOST_IMAGES]
    return Analysis(found.get("iou_type", ""), _tide(found.get("tide", {})), _confusions(found.get("confusions", [])),
                    _calibration(found.get("calibration")), _images(row, worst))


def _tide(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each kind of error, with a bar for each frequency group: what AP50 would gain without it."""
    groups = [group for group in GROUPS if found.get(group)]
    highest = max((value or 0 for group in groups for value in found[group].values()), default=0) or 1
    return [{"name": kind, "text": text, "bars": [
        {"group": group, "word": GROUPS[group], "value": (value := found[group].get(kind)),
         "text": "–" if value is None else f"{100 * value:.1f}", "width": round(100 * max(value or 0, 0) / highest, 2)}
        for group in groups]} for kind, text in KINDS.items() if any(kind in found[group] for group in groups)]


def _confusions(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    highest = max((one["count"] for one in found), default=0) or 1
    return [{**one, "width": round(100 * one["count"] / highest, 2)} for one in found[:MOST_CONFUSIONS]]


def _calibration(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """The reliability diagram: how often detections of a confidence are right."""
    known = [b for b in (found or {}).get("bins", []) if b["count"] and None not in b.values()]
    if not found or not known:
        return None
    axis = scales.exact("", [1.0])
    most = max(b["count"] for b in known)
    bars = [{"x": axis.at(b["low"]), "width": round(max(axis.at(b["high"]) - axis.at(b["low"]), 0.5), 2),
             "confidence": axis.at(b["confidence"]), "precision": axis.at(b["precision"]),
             "share": round(100 * b["count"] / most, 2),
             "text": f"confidence {b['low']:.2f} to {b['high']:.2f}: {b['count']} detections, "
                     f"{100 * b['precision']:.0f} % of them right"} for b in known]
    ece = "unknown" if found["ece"] is None else f"{found['ece']:.3f}"
    said = " ".join(f"{100 * b['confidence']:.0f} % confident: {100 * b['precision']:.0f} % right." for b in known)
    return {"ece": ece, "bars": bars, "axis": axis,
            "alt": f"Reliability diagram, expected calibration error {ece}. {said}"}


def _images(row: Row, worst: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The worst images with boxes in percent of their sides, as far as there is room for them on the page."""
    found, left = [], LARGEST_IMAGES
    for one in worst:
        data = _jpeg(row, one["image"]) if one["image"] else b""
        data = data if len(data) <= left else b""
        left -= len(data)
        missed = [thing for thing in one["truth"] if not thing.get("found", False)]
        detections = sorted((d for d in one["detections"] if d["score"] is not None), key=lambda d: -d["score"])
        boxes = [_box(one, thing, "missed") for thing in missed[:MOST_BOXES]]
        boxes += [_box(one, d, "right" if d.get("right") else "false") for d in detections[:MOST_BOXES]]
        _label(boxes)
        names = [thing["name"] for thing in missed]
        found.append({"missed": one["missed"], "false": one["false"], "id": str(one["image_id"]), "boxes": boxes,
                      "width": one["width"] or 4, "height": one["height"] or 3, "names": counted(names),
                      "data": base64.b64encode(data).decode(), "hidden": max(0, len(detections) - MOST_BOXES)})
    return found


def counted(names: Iterable[str]) -> str:
    """Names in the order in which they first occur: ``cat, dog × 3``."""
    return ", ".join(name + (f" × {count}" if count > 1 else "") for name, count in Counter(names).items())


def _jpeg(row: Row, name: str) -> bytes:
    """The content of an image beside the analysis; empty if it is not a small JPEG."""
    with contextlib.suppress(OSError, UserError):
        path = file_of(row)
        data = read_bytes(check_inside(path.parent, name, path, "worst.image"), LARGEST_IMAGE)
        return data if data.startswith(b"\xff\xd8\xff") else b""
    return b""


def _box(image: dict[str, Any], one: dict[str, Any], kind: str) -> dict[str, Any]:
    """A box in percent of the image's sides."""
    if len(one["box"]) != 4:
        raise Unreadable("analysis.json", "worst.box", "expected four numbers: x, y, width, height")
    sides = [image[side] or max(*one["box"], 1) for side in ("width", "height")] * 2
    x, y, width, height = (round(100 * value / side, 2) for value, side in zip(one["box"], sides))
    score = f" {one['score']:.2f}" if "score" in one else ""
    return {"x": x, "y": y, "width": max(width, 0), "height": max(height, 0), "text": one["name"] + score, "kind": kind}


def _label(boxes: list[dict[str, Any]]) -> None:
    """Name the false detections in the image as far as no name covers another; the others say theirs when hovered."""
    taken: list[tuple[float, float, float]] = []
    for box in boxes:
        low = box["y"] < LETTER[1] + 1
        width, y = LETTER[0] * len(box["text"]), box["y"] + (LETTER[1] if low else 0)
        x = max(0.0, min(box["x"], 100 - width))
        free = all(x > left + wide or left > x + width or abs(y - at) > LETTER[1] for left, wide, at in taken)
        box.update(label=box["kind"] == "false" and free, label_x=round(x, 2), low=low)
        if box["label"]:
            taken.append((x, width, y))
