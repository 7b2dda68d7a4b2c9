"""The outline of an annotation file: its categories, first image and first annotation, without the rest.

LVIS v1 train has 1.1 GB; its outline takes some 20 ms once the pages are in memory. Where a file is laid out
in no usual way it is parsed whole, so that the answer is never a guess. Needs the standard library only.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mmdet_ext.data.class_counts import categories_near_an_end

from ..base.errors import UserError

SOURCE = "https://www.lvisdataset.org/dataset"
FETCH = "fetch it again"


def outline(path: Path, said: str, annotated: bool = True, otherwise: str = "") -> dict[str, Any]:
    """The file's content, of which ``images`` and ``annotations`` may be cut to their first entry.

    Args:
        said: how messages call the file.
        annotated: whether ``annotations`` are looked for too.
        otherwise: what else can be done where the file is missing.

    Raises:
        UserError: the file is missing, cannot be read, is cut off or is no JSON object.
    """
    if path.is_dir():
        raise UserError(f"{said} is a folder; expected a JSON file")
    if path.exists() and not path.is_file():  # a FIFO would be waited for
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
        raise UserError(f"{said} is missing; expected an LVIS or COCO annotation file: {remedy}") from error
    except OSError as error:
        raise UserError(f"{said} cannot be read ({error.strerror}); expected a JSON file") from error
    if not start:
        raise UserError(f"{said} is empty; expected a JSON object: {FETCH}")
    if not start.startswith(b"{"):
        begin = start[:20].decode(errors="replace")
        raise UserError(f"{said} is no JSON object: it starts with {begin!r}, expected '{{': {FETCH}")
    if not end.endswith(b"}"):
        raise UserError(f"{said} is cut off after {size:,} bytes; expected a '}}' at its end: {FETCH}")
    return _skim(path, end, annotated) or parse(path, said)


def _skim(path: Path, end: bytes, annotated: bool) -> dict[str, Any] | None:
    """All categories, the first image and the first annotation; None where a doubt remains."""
    categories = categories_near_an_end(path)
    if categories is None:
        return None
    content: dict[str, Any] = {"categories": categories}
    with open(path, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for key in ("images", "annotations") if annotated else ("images",):
            first = next((f for at in _places(data, key) if (f := _first(data, at)) is not None), None)
            if first is None:
                return None
            content[key] = first
    # cut off between two records the file may still end with a brace; a list of records ends with "}]}"
    return content if b"".join(end.split()).endswith((b"}]}", b"[]}")) else None


def _places(data: mmap.mmap, key: str) -> Iterator[int]:
    """Where the value of a key may start: first near the head, then near the tail, then anywhere."""
    name = f'"{key}"'.encode()
    head, tail = min(1 << 20, len(data)), max(0, len(data) - (64 << 20))
    searches = (partial(data.find, name, 0, head), partial(data.rfind, name, tail), partial(data.find, name))
    for at in (search() for search in searches):
        if at >= 0 and data[max(0, at - 64) : at].rstrip().endswith((b"{", b",")):
            colon = data.find(b":", at + len(name))
            if not data[at + len(name) : colon].strip():
                yield colon + 1


def _first(data: mmap.mmap, at: int) -> list[dict[str, Any]] | None:
    """The list at ``at`` with its first record only; None if it is no list of records."""
    for window in (1 << 14, 1 << 18, 1 << 24):
        text = data[at : at + window].decode(errors="ignore").lstrip()
        if not text.startswith("["):
            return None
        text = text[1:].lstrip()
        if text.startswith("]"):
            return []
        try:
            record, _ = json.JSONDecoder().raw_decode(text)
        except RecursionError:
            return None
        except ValueError:
            continue  # the record may go on behind the window
        return [record] if isinstance(record, dict) else None
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
        raise UserError(f"{said} does not fit into this machine's memory ({path.stat().st_size:,} bytes); submit where "
                        "there is more") from None
    except OSError as error:
        raise UserError(f"{said} cannot be read ({error.strerror}); expected a JSON file") from None
    if not isinstance(content, dict):
        raise UserError(f"{said} is not a JSON object: {FETCH}")
    return content
