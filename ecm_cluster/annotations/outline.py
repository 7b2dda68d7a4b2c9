"""The outline of an annotation file: its categories, first image and first annotation, without the rest.

LVIS v1 train has 1.1 GB; its outline takes some 20 ms once the pages are in memory. A file with an
unusual layout is parsed as a whole, so that the answer is never a guess. Needs the standard library only.
"""

from __future__ import annotations

import itertools
import json
import mmap
from pathlib import Path
from typing import Any

from mmdet_ext.data import json_walk
from mmdet_ext.data.class_counts import categories_near_an_end

from ..base.errors import UserError

SOURCE = "https://www.lvisdataset.org/dataset"
FETCH = "fetch it again"


def outline(path: Path, said: str, annotated: bool = True, otherwise: str = "") -> dict[str, Any]:
    """The file's content; ``images`` and ``annotations`` may be reduced to their first entry.

    Args:
        annotated: whether ``annotations`` are looked for too.
        otherwise: the alternative to fetching a file that does not exist.

    Raises:
        UserError: the file is missing, cannot be read, is truncated, or is not a JSON object.
    """
    if path.is_dir():
        raise UserError(f"{said} is a directory; expected a JSON file")
    if path.exists() and not path.is_file():  # a FIFO would block
        raise UserError(f"{said} is not a regular file; expected a JSON file")
    try:
        size = path.stat().st_size
        with open(path, "rb") as handle:
            start = handle.read(4096).lstrip()
            handle.seek(max(0, size - 4096))
            end = handle.read().rstrip()
    except FileNotFoundError as error:
        packed = next((p for p in (Path(f"{path}.zip"), Path(f"{path}.gz")) if p.exists()), None)
        remedy = f"unpack {packed}" if packed else f"fetch it from {SOURCE}{otherwise}"
        raise UserError(f"{said} does not exist; expected an LVIS or COCO annotation file: {remedy}") from error
    except OSError as error:
        raise UserError(f"{said} cannot be read ({error.strerror}); expected a JSON file") from error
    if not start:
        raise UserError(f"{said} is empty; expected a JSON object: {FETCH}")
    if not start.startswith(b"{"):
        begin = start[:20].decode(errors="replace")
        raise UserError(f"{said} is not a JSON object: it starts with {begin!r}, expected '{{': {FETCH}")
    if not end.endswith(b"}"):
        raise UserError(f"{said} is truncated after {size:,} bytes; expected a '}}' at its end: {FETCH}")
    return _skim(path, end, annotated) or parse(path, said)


def _skim(path: Path, end: bytes, annotated: bool) -> dict[str, Any] | None:
    """All categories, the first image and the first annotation; None where a doubt remains."""
    categories = categories_near_an_end(path)
    if categories is None:
        return None
    content: dict[str, Any] = {"categories": categories}
    with open(path, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for key in ("images", "annotations") if annotated else ("images",):
            firsts = (_first(data, at) for at in json_walk.likely_places(data, key))
            content[key] = next((first for first in firsts if first is not None), None)
            if content[key] is None:
                return None
    # cut off between two records the file may still end with a brace; a list of records ends with "}]}"
    return content if b"".join(end.split()).endswith((b"}]}", b"[]}")) else None


def _first(data: mmap.mmap, at: int) -> list[dict[str, Any]] | None:
    """The list at ``at`` with its first record only; None if it is not a list of records."""
    try:
        return list(itertools.islice(json_walk.records(data, at), 1))
    except (ValueError, RecursionError):
        return None


def parse(path: Path, said: str) -> dict[str, Any]:
    """The whole file.

    Raises:
        UserError: It is not one JSON object, or cannot be read.
    """
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{said} is not valid JSON ({error}): {FETCH}") from None
    except RecursionError:
        raise UserError(f"{said} is not valid JSON (nested too deeply): {FETCH}") from None
    except MemoryError:
        raise UserError(f"{said} does not fit into this machine's memory ({path.stat().st_size:,} bytes); submit from "
                        "a machine with more") from None
    except OSError as error:
        raise UserError(f"{said} cannot be read ({error.strerror}); expected a JSON file") from None
    if not isinstance(content, dict):
        raise UserError(f"{said} is not a JSON object: {FETCH}")
    return content
