"""Is the data there, and whole? Looked at before anything is submitted, on a machine without numpy.

Covered: that an annotation file is complete JSON with the lists that LVIS or COCO have, every category, the
first image and the first annotation; that the first image's file lies where mmdet will look for it. Not
covered: every other record, and whether the pictures can be decoded.

The published layout of LVIS v1, which :func:`check_root` expects::

    root/annotations/lvis_v1_train.json   root/annotations/lvis_v1_val.json
    root/train2017/000000391895.jpg …     root/val2017/000000397133.jpg …
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

LISTS = ("images", "annotations", "categories")
SYNTHETIC = ", or make a synthetic set with `python -m ecm_cluster.synthesize OUT`"

Kind = Tuple[Any, str]
WHOLE: Kind = (int, "a whole number")
NUMBER: Kind = ((int, float), "a number")
_TEXT: Kind = (str, "a string")
_LIST: Kind = (list, "a list")
MASK: Kind = ((list, dict), "polygons or an encoding")
ID: Kind = ((int, str, float), "a number or a string")
# what mmdet, pycocotools and lvis-api read of each record; LVIS asks for more than COCO
FIELDS: dict[str, dict[str, Kind]] = {
    "images": {"id": ID, "height": NUMBER, "width": NUMBER},
    "annotations": {"id": ID, "image_id": ID, "category_id": ID, "area": NUMBER, "bbox": _LIST},
    "categories": {"id": ID, "name": _TEXT},
}
LVIS_FIELDS: dict[str, dict[str, Kind]] = {
    "images": {"neg_category_ids": _LIST, "not_exhaustive_category_ids": _LIST},
    "annotations": {"segmentation": MASK},
    "categories": {"frequency": _TEXT},
}


@dataclass(frozen=True)
class AnnotationSummary:
    """What is known of an annotation file after the check."""

    path: Path
    lvis: bool  # has the federated lists and frequencies; otherwise COCO's fields only
    categories: list[dict[str, Any]]  # whole, in the order of the file
    first_image: dict[str, Any]
    first_annotation: dict[str, Any] | None  # None for a file that need not have any (a test set)

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(c["name"] for c in self.categories)


def check_root(
    root: str | os.PathLike,
    train_ann: str = "annotations/lvis_v1_train.json",
    val_ann: str = "annotations/lvis_v1_val.json",
) -> dict[str, AnnotationSummary]:
    """Check a data set in the published layout of LVIS v1, real or synthetic.

    Args:
        train_ann, val_ann: annotation files, from ``root``.

    Returns:
        The summaries of ``train`` and ``val``.

    Raises:
        UserError: one line with the file, what was expected there, and what to do.
    """
    root = Path(root)
    if not root.is_dir():
        there = "is a file" if root.exists() else "does not exist"
        raise UserError(
            f"data root {root} {there}; expected a folder with annotations/, train2017/ and val2017/: "
            f"give the root of LVIS{SYNTHETIC}"
        )
    found = {}
    for split, name in (("train", train_ann), ("val", val_ann)):
        found[split] = check_annotation_file(root / name, f"{split} annotations", lvis=True)
        check_images(found[split], root, f"{split} images")
    labels = {split: {c["id"]: c["name"] for c in summary.categories} for split, summary in found.items()}
    if labels["train"] != labels["val"]:
        raise UserError(
            f"val annotations: {found['val'].path} and {found['train'].path} list different categories; "
            "expected the same ids and names: take both files from one data set"
        )
    return found


def check_annotation_file(
    path: str | os.PathLike, what: str = "annotations", lvis: bool | None = None, annotated: bool = True,
    masks: bool = True,
) -> AnnotationSummary:
    """Check one annotation file, of LVIS v1, LVIS v0.5 or COCO.

    Args:
        what: how messages call the file, such as ``data.train.ann_file``.
        lvis: whether LVIS's own fields must be there; None: if any of them is.
        annotated: whether it must hold annotations (COCO's test sets have none).
        masks: whether annotations of LVIS must have them.

    Raises:
        UserError: one line with the file, what was expected there, and what to do.
    """
    path = Path(path)
    said = f"{what}: {path}"
    content = outline(path, said, annotated, otherwise=SYNTHETIC)
    for key in LISTS if annotated else ("images", "categories"):
        if key not in content:
            raise UserError(f"{said} has no {key!r}; expected a JSON object with {', '.join(LISTS)}: {FETCH}")
        if not isinstance(content[key], list) or not content[key]:
            raise UserError(
                f"{said}: {key!r} is {brief(content[key])}; expected a list with entries: {FETCH}"
            )
    categories, image = content["categories"], content["images"][0]
    annotation = content["annotations"][0] if annotated else None
    if lvis is None:
        firsts = {"images": image, "categories": categories[0]}
        own = {"images": "neg_category_ids", "categories": "frequency"}
        lvis = any(isinstance(firsts[key], dict) and own[key] in firsts[key] for key in own)
    for number, category in enumerate(categories, 1):
        _check_record(said, "categories", number, category, lvis)
    _check_record(said, "images", 1, image, lvis)
    if annotation is not None:
        _check_record(said, "annotations", 1, annotation, lvis, masks)
    _check_ids(said, categories)
    return AnnotationSummary(path, lvis, categories, image, annotation)


def check_images(summary: AnnotationSummary, img_prefix: str | os.PathLike, what: str = "images",
                 dataset: str = "") -> Path:
    """Check that the first image of an annotation file lies where mmdet will look for it.

    Args:
        img_prefix: the dataset's ``img_prefix``; for LVIS v1 the data root, as ``coco_url`` names the folder.
        dataset: its type, if it is known.

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
    # the topmost folder that is not there tells what to mend: the root, a set not unpacked, a file not copied
    missing = candidates[0]
    while missing.parent != missing and not missing.parent.is_dir():
        missing = missing.parent
    first = f"the first image of {summary.path}"
    if missing == candidates[0]:
        wrong = "is a folder" if missing.is_dir() else "is missing"
        remedy = f"put all images into {missing.parent}, or mend the data root"
        raise UserError(f"{what}: {missing} {wrong}; expected {first}: {remedy}")
    wrong = "is no folder" if missing.exists() else "is missing"
    remedy = f"unpack COCO's {missing.name} there, or mend the data root"
    raise UserError(
        f"{what}: {missing} {wrong}; expected a folder, with {first} at {candidates[0]}: {remedy}"
    )


def _check_record(said: str, key: str, number: int, record: Any, lvis: bool, masks: bool = True) -> None:
    """Whether a record has its fields, of their types."""
    where = f"{said}: entry {number} of {key!r}"
    if not isinstance(record, dict):
        raise UserError(f"{where} is {brief(record)}; expected an object with {', '.join(FIELDS[key])}")
    fields = {**FIELDS[key], **(LVIS_FIELDS[key] if lvis else {})}
    if not masks:
        fields.pop("segmentation", None)
    if key == "images":
        given = [name for name in ("coco_url", "file_name") if name in record]
        if not given:
            raise UserError(
                f"{where} has neither 'coco_url' (LVIS v1) nor 'file_name'; expected one: {FETCH}"
            )
        fields.update({name: _TEXT for name in given})
    for field, (legal, name) in fields.items():
        if field not in record:
            raise UserError(
                f"{where} has no {field!r}; expected {name} ({'LVIS' if lvis else 'COCO'}): {FETCH}"
            )
        if not isinstance(record[field], legal) or isinstance(record[field], bool):
            raise UserError(f"{where}: {field!r} is {brief(record[field])}; expected {name}: {FETCH}")
    if key == "annotations" and len(record["bbox"]) != 4:
        raise UserError(f"{where}: 'bbox' is {brief(record['bbox'])}; expected x, y, width, height: {FETCH}")
    if key == "categories" and lvis and record["frequency"] not in ("r", "c", "f"):
        raise UserError(f"{where}: 'frequency' is {brief(record['frequency'])}; expected r, c or f: {FETCH}")


def _check_ids(said: str, categories: list[dict[str, Any]]) -> None:
    ids = {c["id"] for c in categories}
    if len(ids) < len(categories):
        raise UserError(f"{said}: {len(categories)} categories have {len(ids)} ids; expected one id for each")


def brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."
