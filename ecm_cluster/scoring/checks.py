"""Whether annotations and detections can be scored together.

numpy is imported inside the functions: :mod:`.scoring` has to import on a login node without it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from .detections import Detections, no_collection
from .parts import COCO, LVIS


def read_annotations(path: str | Path) -> dict[str, Any]:
    """Parse an annotation file and check that it is one."""
    try:
        with no_collection():
            document = json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: the annotation file does not exist") from None
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path}: not a readable JSON annotation file ({error})") from error
    if not isinstance(document, dict) or not {"images", "categories"} <= document.keys():
        raise UserError(f"{path}: not an LVIS or COCO file, which has images, annotations and categories")
    return {"annotations": [], **document}  # pycocotools reads those of a test set without any


def is_lvis(document: dict[str, Any], path: str | Path) -> bool:
    """Whether the annotations are of LVIS form (True) or plain COCO form (False); a mixture is rejected."""
    images, categories = document["images"], document["categories"]
    fields = {
        "images: neg_category_ids": ["neg_category_ids" in image for image in images],
        "images: not_exhaustive_category_ids": ["not_exhaustive_category_ids" in image for image in images],
        "categories: frequency": [category.get("frequency") in ("r", "c", "f") for category in categories],
    }
    if not any(any(has) for has in fields.values()):
        return False
    for field, has in fields.items():
        if not all(has):
            wrong = f"{field} is missing or wrong in {has.count(False)} of {len(has)} entries"
            raise UserError(f"{path}: {wrong}; an LVIS file has it in all (a frequency is r, c or f)")
    return True


def check_finite(found: Detections, iou_types: Sequence[str]) -> None:
    import numpy as np

    wrong = ~np.isfinite(found.bbox).all(axis=1)
    for iou_type in iou_types:
        wrong |= ~np.isfinite(found.scores(iou_type))
    if wrong.any():
        raise UserError(f"detections: {int(wrong.sum())} of {len(found)} have a box or a score that is not a finite "
                        f"number (the first is on image {int(found.image_id[np.argmax(wrong)])}); the model that "
                        "found them has diverged: evaluate an earlier checkpoint")


def check_annotations(document: dict[str, Any], iou_types: Sequence[str], path: str | Path) -> None:
    fields = ["id", "image_id", "category_id", "area"]
    fields += ["bbox"] if "bbox" in iou_types else []
    fields += ["segmentation"] if "segm" in iou_types else []
    for field in fields:
        lacking = sum(field not in annotation for annotation in document["annotations"])
        if lacking:
            raise UserError(f"{path}: annotations: {field} is missing in {lacking} of {len(document['annotations'])} "
                            "entries; scoring needs it in all")
    for kind in ("images", "annotations", "categories"):
        ids = [entry["id"] for entry in document[kind]]
        if len(set(ids)) < len(ids):
            raise UserError(f"{path}: {kind}: {len(ids) - len(set(ids))} duplicate ids; ids must be unique")


def check_images(document: dict[str, Any], found: Detections, path: str | Path) -> None:
    known, seen = {image["id"] for image in document["images"]}, set(found.images.tolist())
    if known != seen:
        raise UserError(f"{path}: {len(known - seen)} of its {len(known)} images have no detections recorded, and "
                        f"{len(seen - known)} images with detections are not in it (the first is {min(known ^ seen)}); "
                        "score with the annotation file that was used for inference")


def rule_of(document: dict[str, Any], path: str | Path, rule: str | None) -> str:
    """The rule that annotations are scored by: the one that is given, else LVIS's if they are of LVIS form."""
    if rule == COCO:
        return COCO
    if is_lvis(document, path):
        return LVIS
    if rule == LVIS:
        raise UserError(f"{path}: its images have no neg_category_ids and its categories no frequency, which LVIS's "
                        "rule needs; with data.test.type CocoDataset it is scored by COCO's")
    return COCO
