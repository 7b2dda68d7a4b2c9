"""Stored detections as the results file of LVIS and COCO, for other tools and evaluation servers.

A JSON list of ``image_id``, ``category_id``, ``bbox``, ``score`` and, from models with masks, ``segmentation``, whose
``counts`` are text; ids are those of the annotation file. It is written chunk by chunk, so one chunk is all that is in
memory; numbers are written so that the same doubles are read back.

numpy is imported inside the functions: verbs import this module on a login node.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ..base.errors import UserError
from .detection_files import REMEDY, read_one
from .detections import Detections
from .parts import OWN, ScoredSet


def check(scored: ScoredSet) -> None:
    """Refuse what has no such form.

    Raises:
        UserError: Several datasets, or one with a rule of its own.
    """
    if len(scored.parts) > 1:
        raise UserError(f"results-json: data.test has {len(scored.parts)} datasets, whose ids may be the same; "
                        "expected one, so score a run or a checkpoint on each alone")
    if scored.parts[0].kind == OWN:
        raise UserError(f"results-json: {scored.parts[0].type} is scored by its own `evaluate`; a results file is for "
                        "datasets with the ids of LVIS or COCO")


def write(handle: IO[bytes], shards: Sequence[Path], scored: ScoredSet) -> int:
    """Write all detections; returns how many.

    Scores are those of the masks where a model scores them apart from boxes.

    Raises:
        UserError: As :func:`check`, or a shard is missing or damaged, or not all images are covered.
    """
    check(scored)
    names = _names(scored)
    covered, count, images = 0, 0, 0
    handle.write(b"[")
    for path in shards:
        found, images = read_one(path)
        covered += len(found.images)
        for row in _rows(found, names):
            handle.write((b",\n" if count else b"\n") + json.dumps(row).encode())
            count += 1
    handle.write(b"\n]\n")
    if covered != images:
        raise UserError(f"results-json: the detections cover {covered} of {images} images; {REMEDY}")
    return count


def _names(scored: ScoredSet) -> Mapping[str, Sequence[Any]] | None:
    """The ids by position and label; None where the columns have them themselves."""
    part = scored.parts[0]
    return {"image_id": part.images, "category_id": part.categories} if scored.by_position else None


def _rows(found: Detections, names: Mapping[str, Sequence[Any]] | None) -> list[dict[str, Any]]:
    rows = found.to_lvis_results(found.iou_types[-1])
    for row in rows if names else ():
        row.update({field: ids[row[field]] for field, ids in (names or {}).items()})
    return rows
