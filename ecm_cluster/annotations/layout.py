"""Does the data exist, and is it complete? Checked before anything is submitted, on a machine without numpy.

Covered: that an annotation file is complete JSON with the lists that LVIS or COCO have, every category, the
first image and the first annotation; that the first image's file exists where mmdet will look for it. Not
covered: every other record, and whether the pictures can be decoded.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Tuple

from mmdet_ext.data import image_names

from ..base.errors import UserError
from .outline import FETCH, outline

LISTS = ("images", "categories")  # COCO's test sets have no annotations
SYNTHETIC = ", or make a synthetic set with `python -m ecm_cluster.synthesize OUT`"

Kind = Tuple[Any, str]
WHOLE: Kind = (int, "a whole number")
NUMBER: Kind = ((int, float), "a number")
_TEXT: Kind = (str, "a string")
_LIST: Kind = (list, "a list")
MASK: Kind = ((list, dict), "polygons or an encoding")
ID: Kind = ((int, str, float), "a number or a string")
# what mmdet, pycocotools and lvis-api read of each record; LVIS requires more than COCO
FIELDS: dict[str, dict[str, Kind]] = {
    "images": {"id": ID, "height": NUMBER, "width": NUMBER},
    "annotations": {"id": ID, "image_id": ID, "category_id": ID, "area": NUMBER, "bbox": _LIST},
    "categories": {"id": ID, "name": _TEXT},
}
LVIS_FIELDS: dict[str, dict[str, Kind]] = {
    "images": {"neg_category_ids": _LIST, "not_exhaustive_category_ids": _LIST},
    "categories": {"frequency": _TEXT},
}


@dataclass(frozen=True)
class AnnotationSummary:
    """An annotation file after the check."""

    path: Path
    lvis: bool  # has the federated lists and frequencies; otherwise COCO's fields only
    categories: list[dict[str, Any]]  # complete, in the order of the file
    first_image: dict[str, Any]


def check_annotation_file(path: Path, what: str = "annotations", lvis: bool | None = None) -> AnnotationSummary:
    """Check the categories and the first image of an annotation file, of LVIS v1, LVIS v0.5 or COCO.

    Args:
        lvis: whether LVIS's own fields are required; None: if any of them exists.

    Raises:
        UserError: one line with the file, what was expected there, and what to do.
    """
    said = f"{what}: {path}"
    content = outline(path, said, annotated=False, otherwise=SYNTHETIC)
    for key in LISTS:
        if key not in content:
            raise UserError(f"{said} has no {key!r}; expected a JSON object with {', '.join(LISTS)}: {FETCH}")
        if not isinstance(content[key], list) or not content[key]:
            raise UserError(f"{said}: {key!r} is {brief(content[key])}; expected a list with entries: {FETCH}")
    categories, image = content["categories"], content["images"][0]
    if lvis is None:
        firsts = {"images": image, "categories": categories[0]}
        own = {"images": "neg_category_ids", "categories": "frequency"}
        lvis = any(isinstance(firsts[key], dict) and own[key] in firsts[key] for key in own)
    for number, category in enumerate(categories, 1):
        _check_record(said, "categories", number, category, lvis)
    _check_record(said, "images", 1, image, lvis)
    ids = {c["id"] for c in categories}
    if len(ids) < len(categories):
        raise UserError(f"{said}: {len(categories)} categories have {len(ids)} ids; expected one id for each")
    return AnnotationSummary(path, lvis, categories, image)


def check_images(summary: AnnotationSummary, img_prefix: str | os.PathLike, what: str = "images",
                 dataset: str = "") -> Path:
    """Check that the first image of an annotation file exists where mmdet will look for it.

    Args:
        img_prefix: the dataset's ``img_prefix``; for LVIS v1 the data root, as ``coco_url`` names the folder.

    Returns:
        The path of that image.

    Raises:
        UserError: one line with the folder or file, what was expected there, and what to do.
    """
    candidates = [Path(img_prefix, name) for name in image_names.candidates(summary.first_image, dataset)]
    for path in candidates:
        if path.is_file():
            if path.stat().st_size:
                return path
            raise UserError(f"{what}: {path} is empty; expected a picture: {FETCH}")
    # the topmost missing folder shows what to fix: the root, a split that was not unpacked, a file that was not copied
    missing = candidates[0]
    while missing.parent != missing and not missing.parent.is_dir():
        missing = missing.parent
    first = f"the first image of {summary.path}"
    if missing == candidates[0]:
        wrong = "is a directory" if missing.is_dir() else "does not exist"
        remedy = f"put all images into {missing.parent}, or correct the data root"
        raise UserError(f"{what}: {missing} {wrong}; expected {first}: {remedy}")
    wrong = "is not a directory" if missing.exists() else "does not exist"
    remedy = f"unpack COCO's {missing.name} there, or correct the data root"
    raise UserError(f"{what}: {missing} {wrong}; expected a directory, with {first} at {candidates[0]}: {remedy}")


def _check_record(said: str, key: str, number: int, record: Any, lvis: bool) -> None:
    """Whether a record has its fields, of their types."""
    where = f"{said}: entry {number} of {key!r}"
    if not isinstance(record, dict):
        raise UserError(f"{where} is {brief(record)}; expected an object with {', '.join(FIELDS[key])}")
    fields = {**FIELDS[key], **(LVIS_FIELDS[key] if lvis else {})}
    if key == "images":
        given = [name for name in image_names.FIELDS if name in record]
        if not given:
            raise UserError(f"{where} has neither 'coco_url' (LVIS v1) nor 'file_name'; expected one: {FETCH}")
        fields.update({name: _TEXT for name in given})
    for field, (types, name) in fields.items():
        if field not in record:
            raise UserError(f"{where} has no {field!r}; expected {name} ({'LVIS' if lvis else 'COCO'}): {FETCH}")
        if not isinstance(record[field], types) or isinstance(record[field], bool):
            raise UserError(f"{where}: {field!r} is {brief(record[field])}; expected {name}: {FETCH}")
    if key == "categories" and lvis and record["frequency"] not in ("r", "c", "f"):
        raise UserError(f"{where}: 'frequency' is {brief(record['frequency'])}; expected r, c or f: {FETCH}")


def brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."
