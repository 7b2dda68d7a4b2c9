"""From an annotation file in LVIS's or COCO's format (JSON) to columns; needs numpy and no other library.

What mmdet does with an annotation (skip it, take it as a crowd, make a box of it) depends only on the file, so it is
done here. An image with anything unusual in it keeps its annotations as JSON text ("raw"), and mmdet's own code reads
them; the rest becomes numbers, as

    image        image_id, width, height, kind; where its rows, polygons, numbers and distinct categories start;
                 record, raw and two names: texts
    row          category (place in category_id), state, box (4 float32: x1, y1, x2, y2), polygons (-1: no mask)
    polygon      polygon_length: numbers in it
    number       points16 (hundredths) or points64, as ``kind`` says

A row is an annotation of an image, in the order of the file. Duplicate ids follow lvis-api: an image or category keeps
its first place and its last content, an annotation id refers to the last annotation that has it.

Not covered: what :mod:`mmdet_ext.data.annotation_text` refuses.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from . import column_file
from .annotation_text import Annotations, decode, FLOATS, integer, is_number, Mask, read, Refusal

KEEP, CROWD = 1, 2  # state of a row: a box; a box to ignore
DOUBLE, WHOLE, RAW, ALL_KEPT = 1, 2, 4, 8  # kind of an image: points64; integers where whole; see above; every row
NAMES = ("file_name", "coco_url")
COUNTS = ("instance_count", "image_count")


def write(ann_file: Path, handle: IO[bytes]) -> None:
    """Read ``ann_file`` and write its columns into ``handle``; the same JSON gives the same bytes.

    Raises:
        ValueError: one line with the reason why these are not annotations.
        OSError: the file cannot be read.
    """
    try:
        text = Path(ann_file).read_text(encoding="utf-8")
        lists, annotations = read(text)
    except Refusal as err:
        raise ValueError(f"{ann_file}: {err}; expected an annotation file in the format of LVIS or COCO") from None
    except (ValueError, RecursionError) as err:  # JSON or UTF-8 that cannot be decoded
        raise ValueError(f"{ann_file}: is not JSON ({err}); fetch the annotation file again") from None
    try:
        made, values = _columns(text, lists["images"], lists["categories"], annotations)
    except Refusal as err:
        raise ValueError(f"{ann_file}: {err}; correct the annotation file") from None
    column_file.save(handle, made, values)


def _columns(text: str, images: list[dict[str, Any]], categories: list[dict[str, Any]],
             annotations: Annotations) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All columns and values of the file."""
    records = {integer(image.get("id"), f"image {i} of the list", "id"): image for i, image in enumerate(images)}
    for number, image in records.items():
        if not (is_number(image.get("width")) and is_number(image.get("height"))):
            raise Refusal(f"image {number} has no width and height that are numbers")
    for i, category in enumerate(categories):
        integer(category.get("id"), f"category {i} of the list", "id")
    made = {"image_id": np.array(list(records), np.int64),
            "width": np.array([image["width"] for image in records.values()], np.float64),
            "height": np.array([image["height"] for image in records.values()], np.float64)}
    values: dict[str, Any] = {"names": {}}
    for name in NAMES:
        found = [image.get(name) for image in records.values()]
        whole = all(isinstance(one, str) for one in found)
        values["names"][name] = "all" if whole else "none" if not any(one is not None for one in found) else "some"
        made[f"{name}_ends"], made[name] = column_file.pack_texts(
            [str(one).encode("utf-8", "surrogatepass") for one in found] if whole else [])
    made["record_ends"], made["record"] = column_file.pack_texts(
        [json.dumps(image, separators=(",", ":")).encode() for image in records.values()])
    rows = _rows(made, [category["id"] for category in categories], annotations)
    values["repeated_ids"] = rows.repeated
    made.update(rows.columns)
    made.update(_shapes(text, rows, len(records), annotations))
    listed = {"ids": [c["id"] for c in categories], "counts": _counts(categories, annotations),
              "names": [c["name"] if isinstance(c.get("name"), str) else None for c in categories]}
    made["categories"] = np.frombuffer(json.dumps(listed).encode(), np.uint8)
    return made, values


def _counts(categories: list[dict[str, Any]], annotations: Annotations) -> dict[str, list[Any] | None]:
    """What :mod:`mmdet_ext.data.class_counts` finds in the file; None if it refuses to count."""
    last = {category["id"]: category for category in categories}
    counts: dict[str, list[Any] | None] = {}
    for field in COUNTS:
        if all(field in category for category in last.values()):
            counts[field] = [category[field] for category in last.values()]
            continue
        pairs = zip(annotations.category_ids, annotations.image_ids)
        counted = Counter(category for category, _ in (set(pairs) if field == "image_count" else pairs))
        counts[field] = [counted[i] for i in last] if counted.keys() <= last.keys() else None
    return counts


class _Rows(NamedTuple):
    """Which annotation is in which row, and what follows from it."""

    columns: dict[str, np.ndarray]
    own: np.ndarray  # (R,) places in the file: of the annotation
    content: np.ndarray  # (R,) of the one to read
    repeated: bool


def _rows(images: dict[str, np.ndarray], listed: list[int], annotations: Annotations) -> _Rows:
    """The columns of rows that numbers decide, by mmdet's rules (``CocoDataset._parse_ann_info``)."""
    def column(values: array[Any], dtype: str = "i8") -> np.ndarray:
        return np.frombuffer(values, dtype) if len(values) else np.zeros(0, dtype)

    of_annotation = _places(images["image_id"], column(annotations.image_ids))
    own = np.argsort(of_annotation, kind="stable")
    own = own[np.searchsorted(of_annotation[own], 0):]  # without those of images that are not listed
    image = of_annotation[own]
    ids = column(annotations.ids)
    distinct, inverse = np.unique(ids, return_inverse=True)
    last = np.zeros(len(distinct), np.int64)
    last[inverse] = np.arange(len(ids))  # of equal places the last one is written last
    content = last[inverse[own]]

    seen, places = np.unique(column(annotations.category_ids), return_inverse=True)
    table = np.array(list(dict.fromkeys([*listed, *seen.tolist()])), np.int64)
    category = _places(table, seen)[places].astype(np.int32) if len(seen) else np.zeros(0, np.int32)
    made: dict[str, np.ndarray] = {"category_id": table, "category": category[content]}
    if len(distinct) < len(ids):  # mmdet's filter of images looks at both sides of a repeated id
        annotated = np.zeros(len(images["image_id"]), bool)
        annotated[of_annotation[last][of_annotation[last] >= 0]] = True
        made["filter_category"] = np.where(annotated[image], category[own], -1).astype(np.int32)
    x, y, w, h, area = column(annotations.numbers, "f8").reshape(-1, 5)[content].T
    right, bottom = x + w, y + h
    inside = np.maximum(0, np.minimum(right, images["width"][image]) - np.maximum(x, 0)) \
        * np.maximum(0, np.minimum(bottom, images["height"][image]) - np.maximum(y, 0))
    usable = (inside != 0) & (area > 0) & (w >= 1) & (h >= 1) & (column(annotations.ignored, "i1")[content] == 0)
    state = usable * np.where(column(annotations.crowd, "i1")[content], CROWD, KEEP)
    made["state"] = state.astype(np.uint8)
    pairs = np.unique(image * len(table) + made["category"])
    made["distinct"] = (pairs % max(1, len(table))).astype(np.int32)
    made["box"] = np.stack([x, y, right, bottom], axis=1).astype(np.float32).reshape(-1)
    for name, of in (("row_start", image), ("distinct_start", pairs // max(1, len(table)))):
        made[name] = np.zeros(len(images["image_id"]) + 1, np.int64)
        np.cumsum(np.bincount(of, minlength=len(images["image_id"])), out=made[name][1:])
    return _Rows(made, own, content, len(distinct) < len(ids))


def _places(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each of ``wanted`` stands in ``known`` (distinct numbers), or -1."""
    if not len(known):
        return np.full(len(wanted), -1, np.int64)
    order = np.argsort(known, kind="stable")
    at = order[np.minimum(np.searchsorted(known, wanted, sorter=order), len(known) - 1)]
    return np.where(known[at] == wanted, at, -1)


def _shapes(text: str, rows: _Rows, images: int, annotations: Annotations) -> dict[str, np.ndarray]:
    """Masks of the rows that have a box, image by image, and the text of what is unusual."""
    kinds, raws, polygons, lengths = array("B"), [], array("i"), array("I")
    polygon_start, point_start = array("q"), array("q")
    points: tuple[bytearray, bytearray] = (bytearray(), bytearray())
    nothing = Mask(FLOATS)
    state, starts, content = rows.columns["state"].tolist(), rows.columns["row_start"].tolist(), rows.content.tolist()
    for start, end in zip(starts, starts[1:]):
        kept = [i for row, i in enumerate(content[start:end], start) if state[row] & KEEP]
        masks = [annotations.masks[i] for i in kept]
        style = RAW if any(annotations.raw[i] for i in content[start:end]) else _style(masks)
        double = not style & RAW and any(mask.double for mask in masks)
        polygon_start.append(len(lengths))
        point_start.append(len(points[double]) // (8 if double else 2))
        kinds.append(style | double * DOUBLE | (len(kept) == end - start) * ALL_KEPT)
        raws.append(b"")
        if style & RAW:
            parts = (text[annotations.begins[i]:annotations.ends[i]] for i in content[start:end])
            raws[-1] = f"[{','.join(parts)}]".encode("utf-8", "surrogatepass")
            polygons.extend([0] * (end - start))
            continue
        by_place = dict(zip(kept, masks))
        for i in content[start:end]:
            _, numbers, is_double, sizes = by_place.get(i, nothing)
            polygons.append(-1 if sizes is None else len(sizes))
            lengths.extend(sizes or ())
            points[double].extend(numbers if is_double == double else _widened(numbers))
    ends, raw = column_file.pack_texts(raws)
    return {"kind": np.array(kinds, np.uint8), "polygons": np.array(polygons, np.int32),
            "polygon_length": np.array(lengths, np.uint32), "raw_ends": ends, "raw": raw,
            "polygon_start": np.array([*polygon_start, len(lengths)], np.int64),
            "point_start": np.array(point_start, np.int64),
            "points16": np.frombuffer(points[0], "<u2"), "points64": np.frombuffer(points[1], "<f8")}


def _widened(hundredths: bytes) -> bytes:
    """Hundredths as float64."""
    return decode(np.frombuffer(hundredths, "<u2")).astype("<f8").tobytes()


def _style(masks: list[Mask]) -> int:
    """0 where all numbers of an image's masks are floats, WHOLE where the whole ones are integers, or else RAW."""
    if all(mask.style == FLOATS for mask in masks):
        return 0
    for mask in masks:
        if mask.style == FLOATS:
            numbers = np.frombuffer(mask.numbers if mask.double else _widened(mask.numbers), "<f8")
            if (numbers == np.rint(numbers)).any():
                return RAW
    return WHOLE
