"""Checksums of what is staged: xxh3 of blocks, of images, and of files while they are written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from typing import IO, Any

from ..base.reading import open_regular

BLOCK = 8 << 20  # bytes that are copied, checked, and repaired at once


def checksum(data: Any) -> int:
    """xxh3 of a bytes-like object, as a number of 64 bits."""
    import xxhash  # not at the top: `submit --help` needs none of this

    return xxhash.xxh3_64_intdigest(data)


class BlockWriter:
    """Writes to an open file, and has the checksum of each block of it when all is written.

    Attributes:
        size: Bytes written.
    """

    def __init__(self, handle: IO[bytes]) -> None:
        import xxhash

        self._handle, self._new = handle, xxhash.xxh3_64
        self._state, self.size = self._new(), 0
        self._done: list[int] = []

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._handle.write(view)
        while len(view):
            part = view[:BLOCK - self.size % BLOCK]
            self._state.update(part)
            self.size += len(part)
            view = view[len(part):]
            if self.size % BLOCK == 0:
                self._done.append(self._state.intdigest())
                self._state = self._new()
        return len(data)

    def blocks(self) -> tuple[int, ...]:
        """xxh3 of each block of what was written so far."""
        return (*self._done, self._state.intdigest()) if self.size % BLOCK else tuple(self._done)


class Digesting:
    """Is written to, and digests what is written; passes it on where it is given a file."""

    def __init__(self, handle: IO[bytes] | None = None) -> None:
        self._handle, self._sha = handle, hashlib.sha256()

    def write(self, data: Any, /) -> int:
        self._sha.update(data)
        return len(data) if self._handle is None else self._handle.write(data)

    def digest(self) -> str:
        """As :func:`ecm_cluster.base.files.digest` has it."""
        return f"sha256:{self._sha.hexdigest()}"


def block_checksums(path: str | os.PathLike) -> tuple[int, ...]:
    """xxh3 of each block of a file."""
    with os.fdopen(open_regular(path), "rb") as handle:
        return tuple(checksum(block) for block in iter(lambda: handle.read(BLOCK), b""))


def as_hex(numbers: Iterable[int]) -> str:
    return "".join(f"{n:016x}" for n in numbers)


def from_hex(text: str) -> tuple[int, ...]:
    return tuple(int(text[at:at + 16], 16) for at in range(0, len(text), 16))
