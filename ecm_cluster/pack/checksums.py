"""Checksums of what is staged: xxh3 of blocks, of images, and of files while they are written.

xxh3 (64 bits, the ``xxhash`` library) finds what disks and networks damage, at the speed of memory. It does not protect
against an attacker.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import IO, Any

from ..base.reading import open_regular

BLOCK = 8 << 20  # bytes copied, checked and repaired at once: a transfer takes longer than a round trip


def checksum(data: Any) -> int:
    """xxh3 of a bytes-like object, as a number of 64 bits."""
    import xxhash  # not at the top: `submit --help` does not need it

    return xxhash.xxh3_64_intdigest(data)


class BlockWriter:
    """Writes to an open file and keeps the checksum of each block.

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
        """xxh3 of each block written so far."""
        return (*self._done, self._state.intdigest()) if self.size % BLOCK else tuple(self._done)


def block_checksums(path: str | os.PathLike) -> tuple[int, ...]:
    """xxh3 of each block of a file."""
    with os.fdopen(open_regular(path), "rb") as handle:
        return tuple(checksum(block) for block in iter(lambda: handle.read(BLOCK), b""))


def as_hex(numbers: Iterable[int]) -> str:
    return "".join(f"{n:016x}" for n in numbers)


def from_hex(text: str) -> tuple[int, ...]:
    return tuple(int(text[at:at + 16], 16) for at in range(0, len(text), 16))
