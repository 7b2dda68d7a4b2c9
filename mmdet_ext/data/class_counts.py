"""Positives of each class in the order of mmdet's labels: from a list, a text file or LVIS annotations.

Needs only the standard library, so that a submission can freeze the counts where torch is not installed. An
annotation file has the counts itself, in its list of categories; only that list is decoded if it is near either
end of the file (1.1 GB for LVIS v1 train). The whole file is parsed if the list is elsewhere, or if it lacks the
counts and the annotations have to be counted.

Not covered: a choice of classes. The counts are those of every category of the file, in the file's order,
which is how mmdet's LVIS datasets label them.
"""

from __future__ import annotations

import collections
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import json_walk

COUNT_FIELDS = ("instance_count", "image_count")
SOURCES = "a list of counts, a text file with one count a line, or an LVIS annotation file (JSON)"


class ClassCountError(ValueError):
    """Class counts that cannot be read or used; the text is one line with the remedy."""


@dataclass(frozen=True)
class ClassCounts:
    """Counts in label order: ``counts[i]`` belongs to mmdet's label i.

    Attributes:
        counts: one number a class, zero or more.
        names: the categories' names, if the source has them.
        source: where they come from, for messages.
    """

    counts: tuple[float, ...]
    names: tuple[str, ...] | None
    source: str

    def __len__(self) -> int:
        return len(self.counts)

    def label(self, index: int) -> str:
        """The name of class ``index`` in messages."""
        return f"{index} ({self.names[index]})" if self.names else str(index)

    def positive(self, clamp: bool = False) -> tuple[float, ...]:
        """The counts, every one at least 1.

        Raises:
            ClassCountError: a class has no positives and ``clamp`` is not set. Such a class has no margin: its
                shift is the logarithm of zero.
        """
        zero = [i for i, n in enumerate(self.counts) if n == 0]
        if zero and not clamp:
            shown = ", ".join(self.label(i) for i in zero[:10]) + (", …" if len(zero) > 10 else "")
            raise ClassCountError(
                f"{self.source}: {len(zero)} of {len(self)} classes have a count of zero, which has no "
                f"margin: {shown}; use the counts of the training set, or set clamp_zero_counts=True to "
                "count them as 1"
            )
        return tuple(n or 1 for n in self.counts)


def read_class_counts(
    given: str | os.PathLike[str] | Sequence[float], field: str = "instance_count"
) -> ClassCounts:
    """Read class counts from any of the sources.

    Args:
        given: a sequence of numbers, or the path of a text file (one count a line, ``#`` starts a comment) or
            of an LVIS annotation file.
        field: what an annotation file is asked for, ``instance_count`` (annotations of a class) or
            ``image_count`` (images with at least one). A file whose categories lack it has its annotations
            counted.

    Raises:
        ClassCountError: one line that names the source, what was expected and the remedy.
    """
    if field not in COUNT_FIELDS:
        raise ClassCountError(f"count_field: invalid value {field!r}; expected one of: {', '.join(COUNT_FIELDS)}")
    if isinstance(given, (str, os.PathLike)):
        path = Path(given)
        counts, names = _from_annotations(path, field) if _is_json(path) else (_from_text(path), None)
        source = str(path)
    elif isinstance(given, Iterable):
        counts, names, source = list(given), None, "class_counts"
    else:
        raise ClassCountError(f"class_counts: invalid value {given!r}; expected {SOURCES}")
    if not counts:
        raise ClassCountError(f"{source}: has no class counts; expected {SOURCES}")
    return ClassCounts(tuple(_number(n, i, source) for i, n in enumerate(counts)), names, source)


def _number(value: Any, index: int, source: str) -> float:
    """One count as a plain int (or float, where it has a fraction): finite and not negative."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise ClassCountError(
            f"{source}: the count of class {index} is {ascii(value)[:60]}; expected the training set's, zero or more"
        )
    return int(number) if number.is_integer() else number


# --- files ----------------------------------------------------------------------------------------------


def _is_json(path: Path) -> bool:
    try:
        if path.exists() and not path.is_file():  # a FIFO would block
            raise ClassCountError(f"class_counts: {path} is not a regular file; expected {SOURCES}")
        with open(path, "rb") as handle:
            return handle.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    except OSError as err:
        raise ClassCountError(
            f"class_counts: {path} cannot be read ({err.strerror}); a relative path starts at the working "
            f"directory {os.getcwd()}; expected {SOURCES}"
        ) from err


def _from_text(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as err:
        raise ClassCountError(f"class_counts: {path} is not a text file; expected {SOURCES}") from err
    counts = []
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if len(words) > 1:
            raise ClassCountError(
                f"{path}, line {number}: {line.strip()!r} is not one count; expected one per line"
            )
        counts += words
    return counts


def _from_annotations(path: Path, field: str) -> tuple[list[Any], tuple[str, ...]]:
    listed = categories_near_an_end(path)
    content = None
    if listed is None:
        content = _whole(path)
        listed = content.get("categories")
    if not _are_categories(listed):
        raise ClassCountError(f'{path}: has no list "categories" of objects with id and name; expected {SOURCES}')
    assert listed is not None
    # a duplicate id keeps its first place and its last content, as in the dict that lvis-api makes of them
    categories = {c["id"]: c for c in listed}
    names = tuple(c["name"] for c in categories.values())
    if all(field in c for c in categories.values()):
        return [c[field] for c in categories.values()], names
    counted = _count_annotations(path, content or _whole(path), field, categories)
    return [counted[i] for i in categories], names


def _count_annotations(
    path: Path, content: dict[str, Any], field: str, categories: dict[int, Any]
) -> collections.Counter[int]:
    """How many annotations (or images with one) each category id has."""
    missing = f"{path}: its categories lack {field!r} and"
    try:
        pairs = [(a["category_id"], a["image_id"]) for a in content["annotations"]]
    except (KeyError, TypeError):
        raise ClassCountError(
            f"{missing} it has no list 'annotations' of objects with category_id and image_id to count; "
            "use the annotation file of the training set, or a list of counts"
        ) from None
    counted = collections.Counter(c for c, _ in (set(pairs) if field == "image_count" else pairs))
    unknown = sorted(counted.keys() - categories.keys())
    if unknown:
        raise ClassCountError(
            f"{missing} its annotations name category ids not listed there: {unknown[:10]}; correct the file"
        )
    return counted


def _whole(path: Path) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8-sig") as handle:
            content = json.load(handle)
    except (ValueError, RecursionError) as err:  # both bad JSON and bad UTF-8
        raise ClassCountError(f"{path}: is not JSON ({err}); fetch the annotation file again") from None
    if not isinstance(content, dict):
        raise ClassCountError(f"{path}: is not a JSON object; expected {SOURCES}")
    return content


def _are_categories(value: Any) -> bool:
    def is_one(c: Any) -> bool:
        return isinstance(c, dict) and isinstance(c.get("id"), int) and isinstance(c.get("name"), str)

    return isinstance(value, list) and bool(value) and all(map(is_one, value))


def categories_near_an_end(path: Path) -> list[dict[str, Any]] | None:
    """The top-level list of categories, if the file's last or first megabytes show it beyond doubt."""
    return json_walk.list_near_an_end(path, "categories", _are_categories)
