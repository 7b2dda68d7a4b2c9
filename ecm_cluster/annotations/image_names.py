"""Which images an annotation file names, and so which images belong together.

Covered: the records of LVIS v1 (``coco_url`` with the folder), LVIS v0.5 and COCO (``file_name``, mostly without it).
The file is read a window at a time, and as a whole only where its layout leaves a doubt.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import mmap
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from ..base.errors import UserError
from ..base.reading import Unreadable, parse_json

WINDOW = 1 << 20  # bytes that are parsed at once
LARGEST = 16 << 20  # characters of a record; what is longer is no record of an image
KEY = b'"images"'
OTHER = "other"  # the group of images that no annotation file names


class Names:
    """The images of a data root by their whole names, and by their names without the folder."""

    def __init__(self, images: Iterable[str]) -> None:
        self._whole = set(images)
        self._by_base: dict[str, list[str]] = {}
        for name in sorted(self._whole):
            self._by_base.setdefault(name.rpartition("/")[2], []).append(name)

    def match(self, record: dict[str, Any]) -> list[str]:
        """The images that a record may mean; more than one where a bare file name lies in several folders."""
        candidates = file_names(record)
        whole = [name for name in candidates if name in self._whole]
        if whole:
            return whole
        return [name for candidate in candidates for name in self._by_base.get(candidate.rpartition("/")[2], ())
                if name.endswith(f"/{candidate}")]


def file_names(record: dict[str, Any]) -> list[str]:
    """Where the datasets of mmdet and of this project look for an image, from the folder that they are given."""
    found = []
    name, url = record.get("file_name"), record.get("coco_url")
    if isinstance(url, str) and url:
        with contextlib.suppress(ValueError):  # a host in brackets that is none
            found.append(urlparse(url).path.lstrip("/"))
    if isinstance(name, str) and name:
        # COCO's name of 2014 stands for the file that has only its last part as name since 2017
        found += [name, name.rpartition("_")[2]] if name.startswith("COCO_") else [name]
    return list(dict.fromkeys(found))


def named(path: Path, names: Names) -> tuple[set[str], list[str]]:
    """(images that an annotation file names, names that are not there).

    Raises:
        UserError: It is no whole JSON file.
    """
    present: set[str] = set()
    absent = []
    for record in records(path):
        found = names.match(record)
        present.update(found)
        if not found:
            absent += file_names(record)[:1]
    return present, absent


def records(path: Path) -> list[dict[str, Any]]:
    """What an annotation file says of each image, of which the names are kept; none where it holds something else.

    Raises:
        UserError: It is no whole JSON file.
    """
    try:
        if path.stat().st_size:
            with open(path, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
                begin = _list_of_images(data)
                if begin is not None:
                    return [_with_names(record) for record in _records(data, begin)]
    except (ValueError, RecursionError):
        pass  # the parser says what is wrong
    try:
        content = parse_json(path.read_bytes(), path)
    except Unreadable as error:
        raise UserError(f"{error}; fetch it again") from None
    listed = content.get("images") if isinstance(content, dict) else None
    return [_with_names(r) for r in listed if isinstance(r, dict)] if isinstance(listed, list) else []


def _with_names(record: dict[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in ("file_name", "coco_url") if key in record}


def _list_of_images(data: mmap.mmap) -> int | None:
    """Where the first record of an image begins; None where that is not beyond doubt."""
    if data[:4096].lstrip()[:1] != b"{" or data[max(0, len(data) - 4096):].rstrip()[-1:] != b"}":
        return None
    found, at = None, data.find(KEY)
    while at >= 0:
        behind = re.match(rb"\s*:\s*\[", data[at + len(KEY):at + len(KEY) + 64])
        if behind and data[max(0, at - 64):at].rstrip()[-1:] in (b"{", b","):
            if found is not None:
                return None
            found = at + len(KEY) + behind.end()
        at = data.find(KEY, at + 1)
    return found


def _records(data: mmap.mmap, at: int) -> Iterator[dict[str, Any]]:
    """The objects of a list that begins before ``at``; ValueError where it is no list of objects."""
    decoder, parse = codecs.getincrementaldecoder("utf-8")(), json.JSONDecoder().raw_decode
    space = re.compile(r"[\s,]*")
    text, place = "", 0
    while True:
        begin = space.match(text, place)
        place = begin.end() if begin else place
        if text[place:place + 1] == "]":
            return
        try:
            record, place = parse(text, place)
        except ValueError:
            if at >= len(data) or len(text) - place > LARGEST:
                raise
            text, place = text[place:] + decoder.decode(data[at:at + WINDOW]), 0
            at += WINDOW
            continue
        if not isinstance(record, dict):
            raise ValueError("no record")
        yield record


def has_instances(path: Path) -> bool:
    """Whether an annotation file holds objects with boxes and categories, and not captions, results or names alone.

    Raises:
        UserError: It is cut off.
    """
    from .outline import outline

    with open(path, "rb") as handle:
        if handle.read(4096).lstrip()[:1] != b"{":
            return False
    content = outline(path, str(path))
    firsts = [listed[0] if isinstance(listed, list) and listed else None
              for listed in (content.get(key) for key in ("images", "categories", "annotations"))]
    fields = ({"id"}, {"id", "name"}, {"image_id", "category_id", "bbox"})
    return all(isinstance(first, dict) and fields <= set(first) for first, fields in zip(firsts, fields))


def groups(named_by: dict[str, set[str]]) -> dict[str, str]:
    """The group of each image: the stem of the first annotation file that names it, those of training before others.

    Args:
        named_by: Images that each annotation file (``annotations/NAME.json``) names.
    """
    found: dict[str, str] = {}
    for name in in_order(named_by):
        stem = Path(name).stem
        for image in named_by[name]:
            found.setdefault(image, stem)
    return found


def in_order(names: Iterable[str]) -> list[str]:
    """Annotation files by name, those of training first."""
    return sorted(names, key=lambda name: ("train" not in Path(name).name, name))
