"""Annotations that are mapped into memory instead of parsed: any number of processes share one copy, without delay.

:func:`write` makes the file, once; :class:`Columns` opens it in a millisecond; :func:`use` tells the datasets of
:mod:`mmdet_ext.data.datasets` which annotation file has one. ``SUBSTITUTES`` names, for each stock mmdet type, the one that
looks there and otherwise is the stock one. Needs numpy only.

Not covered: changes to the dict of an image. Each access returns a new one, so changes to it are lost.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cached_property
from itertools import compress
from typing import Any

import numpy as np

from . import column_file
from .annotation_text import decode
from .annotation_writer import ALL_KEPT, COUNTS, CROWD, DOUBLE, KEEP, RAW, WHOLE, write
from .class_counts import ClassCountError, ClassCounts, read_class_counts

__all__ = ["SUBSTITUTES", "Columns", "columns_of", "use", "write"]

SUBSTITUTES = {
    "LVISV1Dataset": "LVISV1FromColumns",
    "LVISV05Dataset": "LVISV05FromColumns",
    "LVISDataset": "LVISV05FromColumns",
    "CocoDataset": "CocoFromColumns",
    "ClassBalancedDataset": "ClassBalancedFromColumns",
}
"""Type of a stock mmdet dataset, as configs name it, to the type that does the same from columns."""

_in_use: dict[str, str] = {}


def use(mapping: Mapping[str, str]) -> None:
    """Set, for this process, where the columns of annotation files are; replaces what was set before.

    Args:
        mapping: path of an annotation file, as the datasets receive it, to the path of its columns.
    """
    _in_use.clear()
    _in_use.update({os.path.abspath(ann_file): os.fspath(path) for ann_file, path in mapping.items()})


def columns_of(ann_file: str | os.PathLike[str]) -> str | None:
    """The path of an annotation file's columns, or None if :func:`use` has none."""
    return _in_use.get(os.path.abspath(ann_file)) if _in_use else None


class Columns:
    """The annotations of one file: N images, R rows (annotations of these images), K categories.

    Attributes:
        image_id: (N,) int64, in the order of the file.
        width, height: (N,) float64, pixels.
        row_start: (N + 1,) int64, rows of image i are ``row_start[i]`` to ``row_start[i + 1]``.
        category: (R,) int32, places in ``category_id``.
        category_id: (K,) int64, those that are listed first, in their order.
        state: (R,) uint8, ``KEEP`` and ``CROWD`` of :mod:`mmdet_ext.data.annotation_writer`.
        box: (R, 4) float32, corners x1, y1, x2, y2.

    Raises:
        ValueError: one line: it is another file, or truncated.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(path)
        made, self.values = column_file.load(path)
        try:
            self.image_id, self.width, self.height = made["image_id"], made["width"], made["height"]
            self.row_start, self.category, self.category_id = made["row_start"], made["category"], made["category_id"]
            self.state, self.box, self._kind = made["state"], made["box"].reshape(-1, 4), made["kind"]
            self._polygons, self._polygon_length = made["polygons"], made["polygon_length"]
            self._polygon_start, self._point_start = made["polygon_start"], made["point_start"]
            self._distinct_start, self._distinct = made["distinct_start"], made["distinct"]
            self._points = made["points16"], made["points64"]
            self.filter_category = made.get("filter_category", self.category)
            self._texts = {name: (made[f"{name}_ends"], made[name])
                           for name in ("record", "raw", "file_name", "coco_url")}
            self._listed = made["categories"]
            self.names = dict(self.values["names"])
        except (LookupError, TypeError, ValueError) as err:
            raise ValueError(f"{path}: lacks the column {err}; remove it, and it is made again from the annotation "
                             "file") from None
        if not self._is_consistent():
            raise ValueError(f"{path}: its columns do not match each other; remove it, and it is made again from the "
                             "annotation file")
        self._row_of: dict[int, int] | None = None

    def _is_consistent(self) -> bool:
        """Whether the columns have the lengths of one set of images and rows."""
        images, rows = len(self.image_id), len(self.category)
        starts = (self.row_start, self._polygon_start, self._distinct_start, self._texts["record"][0],
                  self._texts["raw"][0])
        return (all(len(a) == images for a in (self.width, self.height, self._kind, self._point_start))
                and all(len(a) == images + 1 for a in starts) and int(self.row_start[-1]) == rows
                and all(len(a) == rows for a in (self.state, self.box, self._polygons, self.filter_category)))

    def __len__(self) -> int:
        return len(self.image_id)

    def __reduce__(self) -> tuple[Any, ...]:
        return Columns, (self.path,)

    @property
    def repeated_ids(self) -> bool:
        """True where two annotations have one id."""
        return bool(self.values["repeated_ids"])

    def listed_categories(self) -> list[tuple[int, str | None]]:
        """(id, name) of each entry of the file's list of categories; None: it has no name."""
        return list(zip(self._categories["ids"], self._categories["names"]))

    @cached_property
    def _categories(self) -> dict[str, Any]:
        return json.loads(self._listed.tobytes())

    def class_counts(self, field: str = "instance_count") -> ClassCounts:
        """The same as :func:`mmdet_ext.data.class_counts.read_class_counts` of the annotation file.

        Raises:
            ClassCountError: the field is unknown, or the file does not have the counts.
        """
        if field not in COUNTS:
            raise ClassCountError(f"count_field: invalid value {field!r}; expected one of: {', '.join(COUNTS)}")
        names = dict(self.listed_categories())
        counts = self._categories["counts"][field]
        if counts is None or not counts or None in names.values():
            raise ClassCountError(f"{self.path}: its annotation file does not have {field!r}; use a list of counts")
        return ClassCounts(read_class_counts(counts).counts, tuple(map(str, names.values())), self.path)

    # --- one image

    def record(self, image: int) -> dict[str, Any]:
        """The file's record of an image, as a new dict."""
        return json.loads(column_file.text_at(*self._texts["record"], image))

    def name_record(self, image: int) -> dict[str, Any]:
        """The part of an image's record from which its file name is derived."""
        if "some" in self.names.values():
            return self.record(image)
        return {name: column_file.text_at(*self._texts[name], image).decode("utf-8", "surrogatepass")
                for name, there in self.names.items() if there == "all"}

    def row_of(self, image_id: int) -> int:
        """The place of an image by its id; ``KeyError`` if there is none."""
        if self._row_of is None:
            self._row_of = {number: row for row, number in enumerate(self.image_id.tolist())}
        return self._row_of[image_id]

    def category_ids(self, image: int) -> list[int]:
        """Category id of each annotation of an image."""
        start, end = self.row_start[image : image + 2].tolist()
        return self.category_id[self.category[start:end]].tolist()

    def raw(self, image: int) -> list[dict[str, Any]] | None:
        """The annotations of an image that columns cannot hold exactly, or None."""
        return json.loads(column_file.text_at(*self._texts["raw"], image)) if self._kind[image] & RAW else None

    def objects(self, image: int, labels: np.ndarray, all_known: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray,
                                                                               list[Any]]:
        """What mmdet takes from the n annotations of an image that is not raw, as new arrays.

        Args:
            labels: (K,) int64, the label of each category; -1: left out.
            all_known: no label is -1.

        Returns:
            Boxes (n, 4) float32, labels (n,) int64, boxes to ignore (m, 4) float32, and n masks.
        """
        start, end = self.row_start[image : image + 2].tolist()
        label, box = labels[self.category[start:end]], self.box[start:end]
        masks = self._masks(image, start, end)
        if all_known and self._kind[image] & ALL_KEPT:
            return box.copy(), label, np.zeros((0, 4), np.float32), masks
        state, known = self.state[start:end], label >= 0
        keep = state & KEEP != 0
        if not all_known:
            masks = list(compress(masks, known[keep].tolist()))
        keep &= known
        return box[keep], label[keep], box[(state & CROWD != 0) & known], masks

    def _masks(self, image: int, start: int, end: int) -> list[Any]:
        """The mask of each row with a box: a list of polygons, or None."""
        kind = int(self._kind[image])
        first, last = self._polygon_start[image : image + 2].tolist()
        lengths = self._polygon_length[first:last].tolist()
        at = int(self._point_start[image])
        if kind & DOUBLE:
            numbers = self._points[1][at : at + sum(lengths)].tolist()
        else:
            numbers = decode(self._points[0][at : at + sum(lengths)]).tolist()
        if kind & WHOLE:
            numbers = [int(n) if n.is_integer() else n for n in numbers]
        polygons, at = [], 0
        for length in lengths:
            polygons.append(numbers[at : at + length])
            at += length
        counts = self._polygons[start:end]
        if not kind & ALL_KEPT:
            counts = counts[self.state[start:end] & KEEP != 0]
        masks: list[Any] = []
        at = 0
        for count in counts.tolist():
            masks.append(None if count < 0 else polygons[at : at + count])
            at += max(count, 0)
        return masks

    # --- all images

    def with_category(self, wanted: np.ndarray) -> np.ndarray:
        """(N,) bool, True for images with an annotation in a category for which ``wanted``, (K,) bool, is True."""
        if wanted.all() and self.filter_category is self.category:
            return self.row_start[1:] > self.row_start[:-1]
        before = np.zeros(len(self.category) + 1, np.int64)
        np.cumsum((self.filter_category >= 0) & wanted[self.filter_category], out=before[1:])
        return before[self.row_start[1:]] > before[self.row_start[:-1]]

    def distinct(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many categories each of ``images`` (M places) has, (M,), and all of these, places in category_id."""
        starts = self._distinct_start[images]
        sizes = self._distinct_start[images + 1] - starts
        shift = np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)
        return sizes, self._distinct[np.arange(len(shift)) + shift]
