"""Which images an annotation file names, and so which images belong together in the shards of a pack."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmdet_ext.data import image_names, json_walk

from ..annotations.outline import outline
from ..base.errors import UserError
from ..base.reading import Unreadable, parse_json

OTHER = "other"  # the group of images that no annotation file names


class Names:
    """The images of a data root, by their paths below it and by their names without the folder."""

    def __init__(self, images: Iterable[str]) -> None:
        self._paths = set(images)
        self._by_base: dict[str, list[str]] = {}
        for path in sorted(self._paths):
            self._by_base.setdefault(path.rpartition("/")[2], []).append(path)

    def match(self, record: dict[str, Any]) -> list[str]:
        """The images that a record may mean; more than one if a bare file name exists in several folders."""
        candidates = image_names.candidates(record)
        exact = [name for name in candidates if name in self._paths]
        return exact or [path for name in candidates for path in self._by_base.get(name.rpartition("/")[2], ())
                         if path.endswith(f"/{name}")]


def named_by(path: Path, names: Names) -> tuple[set[str], list[str]]:
    """(images that an annotation file names, names of those that do not exist).

    Raises:
        UserError: It is not a complete JSON file.
    """
    present: set[str] = set()
    absent = []
    for record in image_records(path):
        found = names.match(record)
        present.update(found)
        if not found:
            absent += image_names.candidates(record)[-1:]  # of coco_url if there is one: it has the folder
    return present, absent


def image_records(path: Path) -> list[dict[str, Any]]:
    """The record of each image, reduced to its names; empty where the file holds something else.

    The file is read a window at a time, and as a whole only where its layout leaves a doubt.

    Raises:
        UserError: It is not a complete JSON file.
    """
    try:
        if path.stat().st_size:
            with open(path, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
                begin = _only_list(data)
                if begin is not None:
                    return [_names_of(record) for record in json_walk.records(data, begin)]
    except (ValueError, RecursionError):
        pass  # the parser says what is wrong
    try:
        content = parse_json(path.read_bytes(), path)
    except Unreadable as error:
        raise UserError(f"{error}; fetch it again") from None
    listed = content.get("images") if isinstance(content, dict) else None
    return [_names_of(r) for r in listed if isinstance(r, dict)] if isinstance(listed, list) else []


def _names_of(record: dict[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in image_names.FIELDS if key in record}


def _only_list(data: mmap.mmap) -> int | None:
    """Where the list of images begins; None where that is not beyond doubt."""
    if data[:4096].lstrip()[:1] != b"{" or data[-4096:].rstrip()[-1:] != b"}":
        return None
    lists = [at for at in json_walk.places(data, "images") if data[at : at + 1] == b"["]
    return lists[0] if len(lists) == 1 else None


def has_instances(path: Path) -> bool:
    """Whether an annotation file holds objects with boxes and categories, and not captions, results or names alone.

    Raises:
        UserError: It is truncated.
    """
    with open(path, "rb") as handle:
        if handle.read(4096).lstrip()[:1] != b"{":
            return False
    content = outline(path, str(path))
    firsts = [listed[0] if isinstance(listed, list) and listed else None
              for listed in (content.get(key) for key in ("images", "categories", "annotations"))]
    fields = ({"id"}, {"id", "name"}, {"image_id", "category_id", "bbox"})
    return all(isinstance(first, dict) and fields <= set(first) for first, fields in zip(firsts, fields))


def groups(images_of: dict[str, set[str]]) -> dict[str, str]:
    """The group of each image: the stem of the first annotation file that names it, those of training first."""
    found: dict[str, str] = {}
    for name in in_order(images_of):
        found.update(dict.fromkeys(images_of[name] - found.keys(), Path(name).stem))
    return found


def in_order(names: Iterable[str]) -> list[str]:
    """Annotation files by name, those of training first."""
    return sorted(names, key=lambda name: ("train" not in Path(name).name, name))
