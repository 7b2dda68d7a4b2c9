"""From the text of an annotation file in LVIS's or COCO's format to plain numbers, one annotation at a time.

Memory holds the text once and what is kept of it, not a million dicts. The numbers of a mask are kept as bytes, with
how they were written, so that exactly what Python's JSON decoder returns can be restored.

Not covered: files without a list of annotations, ids that are not integers. They are refused.
"""

from __future__ import annotations

import itertools
from array import array
from typing import Any, NamedTuple

import numpy as np

from .json_walk import Cursor

SAFE = 2**52  # integers below it are exact as float64, and so are their sums
FLOATS, INTEGERS, OTHER = 0, 1, 2  # how the numbers of a mask are written: see Mask


class Refusal(Exception):
    """The reason why a file is refused."""


class Mask(NamedTuple):
    """The polygons of one annotation.

    Attributes:
        style: ``FLOATS``: every number is a float; ``INTEGERS``: the whole ones, and only those, are integers;
            ``OTHER``: cannot be kept this way (run lengths, numbers of both kinds).
        numbers: all of them, as :func:`encode` returns them.
        double: True for float64, False for hundredths.
        lengths: numbers in each polygon; None: there is no mask.
    """

    style: int
    numbers: bytes = b""
    double: bool = False
    lengths: tuple[int, ...] | None = ()


class Annotations:
    """What is kept of each annotation, in the order of the file."""

    def __init__(self) -> None:
        self.ids, self.image_ids, self.category_ids = array("q"), array("q"), array("q")
        self.begins, self.ends = array("q"), array("q")  # where its text is
        self.numbers = array("d")  # x, y, width, height, area
        self.ignored, self.crowd, self.raw = array("b"), array("b"), array("b")
        self.masks: list[Mask] = []

    def add(self, annotation: Any, begin: int, end: int) -> None:
        """Add the annotation whose text is from ``begin`` to ``end``."""
        where = f"annotation {len(self.ids)} of the list"
        if not isinstance(annotation, dict):
            raise Refusal(f"{where} is not an object")
        for key, column in (("id", self.ids), ("image_id", self.image_ids), ("category_id", self.category_ids)):
            column.append(integer(annotation.get(key), where, key))
        self.begins.append(begin)
        self.ends.append(end)
        ignored, crowd = bool(annotation.get("ignore", False)), bool(annotation.get("iscrowd", False))
        box: Any = annotation.get("bbox")
        area: Any = annotation.get("area")
        usual = isinstance(box, list) and len(box) == 4 and all(map(is_number, box)) and is_number(area)
        self.numbers.extend([*box, area] if usual else [0] * 5)
        mask = Mask(FLOATS) if ignored or crowd else _mask(annotation.get("segmentation"))
        self.ignored.append(ignored)
        self.crowd.append(crowd)
        self.raw.append(not usual or mask.style == OTHER)
        self.masks.append(mask)


def integer(value: Any, where: str, key: str) -> int:
    """``value``, which has to be an integer of at most 64 bits."""
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise Refusal(f"{where} has {value!r} for {key}; expected an integer")
    return value


def is_number(value: Any) -> bool:
    """An ordinary number: neither NaN nor infinite, nor so large that float64 would round its sums."""
    return type(value) in (int, float) and -SAFE < value < SAFE


def _mask(given: Any) -> Mask:
    """What an annotation has for ``segmentation``."""
    if given is None:
        return Mask(FLOATS, lengths=None)
    if not isinstance(given, list) or not all(type(polygon) is list for polygon in given):
        return Mask(OTHER)
    flat = list(itertools.chain.from_iterable(given))
    kinds = set(map(type, flat))
    style = FLOATS if kinds <= {float} else INTEGERS if kinds <= {int, float} else OTHER
    if style == INTEGERS and not all(-SAFE < n < SAFE if type(n) is int else not n.is_integer() for n in flat):
        style = OTHER
    if style == OTHER:
        return Mask(OTHER)
    numbers, double = encode(np.array(flat, np.float64))
    return Mask(style, numbers, double, tuple(map(len, given)))


def encode(numbers: np.ndarray) -> tuple[bytes, bool]:
    """Float64 numbers as unsigned 16-bit hundredths if those restore every bit, and otherwise as they are (True)."""
    if not len(numbers):
        return b"", False
    with np.errstate(all="ignore"):
        hundredths = np.rint(numbers * 100)
        if hundredths.min() >= 0 and hundredths.max() < 2**16:  # False where there is a NaN
            short = hundredths.astype("<u2")
            if (decode(short) == numbers).all() and not np.signbit(numbers).any():
                return short.tobytes(), False
    return numbers.astype("<f8").tobytes(), True


def decode(hundredths: np.ndarray) -> np.ndarray:
    """The inverse of :func:`encode` for hundredths."""
    return np.divide(hundredths, 100.0, dtype=np.float64)


def read(text: str) -> tuple[dict[str, list[Any]], Annotations]:
    """The lists of images and categories, and the annotations; of a duplicate key the last one."""
    lists: dict[str, Any] = {}
    annotations = None
    cursor = Cursor(text)
    if cursor.peek() != "{":
        raise Refusal("is not a JSON object")
    for key in cursor.members():
        if key == "annotations":
            annotations = None
        if key == "annotations" and cursor.peek() == "[":
            annotations = Annotations()
            for annotation, begin, end in cursor.elements():
                annotations.add(annotation, begin, end)
        else:
            lists[key] = cursor.value()
    for key in ("images", "categories"):
        if not isinstance(lists.get(key), list) or not all(isinstance(one, dict) for one in lists[key]):
            raise Refusal(f"has no list {key!r} of objects")
    if annotations is None:
        raise Refusal("has no list 'annotations'")
    return lists, annotations
