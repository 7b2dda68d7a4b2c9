"""Named arrays in one file that many processes map into memory together: the container, not its meaning.

The file is a fixed head, a JSON table of columns (name, type, offset, number of elements) with a few values beside
it, and the arrays, each on a boundary of 64 bytes, little-endian. Its size is in the head, so that a truncated file is
noticed when it is opened. Not covered: bytes that change in place; checksums are up to the code that copies files.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

MAGIC = b"annocols"
VERSION = 1
_HEAD = struct.Struct("<8sIIQ")  # magic, version, bytes of the table, bytes of the file
_ALIGN = 64  # bytes: a cache line, and a multiple of every dtype's size, as a mapped array must be aligned


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGN) * _ALIGN


def save(handle: IO[bytes], columns: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
    """Write one-dimensional arrays and JSON values; the same input gives the same bytes.

    Args:
        handle: open for writing, at its start; it need not be seekable.
    """
    arrays = {name: np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for name, array in columns.items()}
    table: list[list[Any]] = []
    offset = 0  # from where the arrays begin, which depends on the length of the table
    for name, array in arrays.items():
        assert array.ndim == 1, name
        table.append([name, array.dtype.str, offset, len(array)])
        offset = _aligned(offset + array.nbytes)
    text = json.dumps({"columns": table, "values": dict(values)}).encode()
    begin = _aligned(_HEAD.size + len(text))
    handle.write(_HEAD.pack(MAGIC, VERSION, len(text), begin + offset) + text)
    handle.write(bytes(begin - _HEAD.size - len(text)))
    for array in arrays.values():
        handle.write(array.data if len(array) else b"")
        handle.write(bytes(_aligned(array.nbytes) - array.nbytes))


def load(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The columns (read-only, in memory that all processes share) and the values of a file of :func:`save`.

    Raises:
        ValueError: one line: it is another file, or truncated.
        OSError: it cannot be opened.
    """
    remedy = "remove it, and it is made again from the annotation file"
    with open(path, "rb") as handle:
        size = os.fstat(handle.fileno()).st_size
        if size < _HEAD.size:
            raise ValueError(f"{path}: has {size} bytes, too few for a file of annotation columns; {remedy}")
        mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    magic, version, length, whole = _HEAD.unpack_from(mapped)
    if magic != MAGIC:
        raise ValueError(f"{path}: is not a file of annotation columns; {remedy}")
    if version != VERSION:
        raise ValueError(f"{path}: has version {version} of the format; expected {VERSION}: {remedy}")
    if size != whole:
        raise ValueError(f"{path}: has {size} bytes; expected {whole}: {remedy}")
    try:
        header = json.loads(mapped[_HEAD.size : _HEAD.size + length])
        begin = _aligned(_HEAD.size + length)
        columns = {}
        for name, dtype, offset, count in header["columns"]:
            if type(offset) is not int or type(count) is not int or min(offset, count) < 0 or name in columns:
                raise ValueError(f"column {name!r}")
            columns[name] = np.frombuffer(mapped, np.dtype(dtype), count, begin + offset)
        return columns, dict(header["values"])
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError, SyntaxError) as err:
        raise ValueError(f"{path}: its table of columns is damaged ({err}); {remedy}") from None


def pack_texts(texts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """(ends, bytes): text i lies between ``ends[i]`` and ``ends[i + 1]``; ``ends`` has one entry more."""
    ends = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=ends[1:])
    return ends, np.frombuffer(b"".join(texts), np.uint8)


def text_at(ends: np.ndarray, whole: np.ndarray, index: int) -> bytes:
    """Text ``index`` of :func:`pack_texts`."""
    start, end = ends[index : index + 2].tolist()
    return whole[start:end].tobytes()
