"""Where each image of a pack lies: sorted columns in a file mapped into memory, which all processes share."""

from __future__ import annotations

import mmap
import os
import struct
import sys
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..base.reading import Unreadable, open_regular
from .checksums import BLOCK, BlockWriter, checksum


@dataclass(frozen=True)
class Location:
    """Where an image lies: ``length`` bytes at ``offset`` of image file number ``file``, with their checksum."""

    file: int
    offset: int
    length: int
    checksum: int


_MAGIC = b"ECMIDX1\n"
_HEAD = struct.Struct("<8sQQ")  # magic, number of images, bytes of names


class Index:
    """The images of a pack by name: sorted columns, memory-mapped, so that all ranks of a node share one copy.

    Opening costs a system call for any number of images; finding one, a binary search by its name's checksum.

    Args:
        sizes: Bytes of each image file; a location outside of it is refused. None: locations are not checked.

    Raises:
        Unreadable: It is another file, or truncated.
        OSError: It cannot be read.
    """

    def __init__(self, path: Path, sizes: Sequence[int] | None = None) -> None:
        self.path, self._sizes = path, sizes
        if sys.byteorder != "little":
            raise OSError(f"{path}: an index of images can only be read on little-endian machines")
        handle = open_regular(path)
        try:
            self._map = mmap.mmap(handle, 0, access=mmap.ACCESS_READ) if os.fstat(handle).st_size else b""
        finally:
            os.close(handle)
        self._whole = whole = memoryview(self._map)
        try:
            magic, self._count, names = _HEAD.unpack_from(whole)
            if magic != _MAGIC or len(whole) != _HEAD.size + self._count * 44 + 8 + names:
                raise struct.error
        except struct.error:
            raise Unreadable(path, "", "is not an index of images, or is truncated; see "
                             "`python -m ecm_cluster.stage verify`") from None
        at = _HEAD.size

        def column(kind: Any, rows: int) -> memoryview:
            nonlocal at
            width = struct.calcsize(kind)
            begin, at = at, at + rows * width
            return whole[begin:at].cast(kind)

        self._key, self._offset, self._length, self._sum = (column("Q", self._count) for _ in range(4))
        self._end = column("Q", self._count + 1)
        self._file = column("I", self._count)
        self._names = whole[at:]

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return (self._name(row) for row in range(self._count))

    def _name(self, row: int) -> str:
        return bytes(self._names[self._end[row]:self._end[row + 1]]).decode()

    def location(self, row: int) -> Location:
        """Where the image in a row lies.

        Raises:
            Unreadable: Outside of all image files.
        """
        place = Location(self._file[row], self._offset[row], self._length[row], self._sum[row])
        sizes = self._sizes
        if sizes is not None and (place.file >= len(sizes) or place.offset + place.length > sizes[place.file]):
            raise Unreadable(self.path, "", f"image {row} is outside of the pack's files; pack the data again")
        return place

    def blocks(self) -> tuple[int, ...]:
        """Checksum of each block of the file, as it is now."""
        return tuple(checksum(self._whole[at:at + BLOCK]) for at in range(0, len(self._whole), BLOCK))

    def find(self, name: str) -> Location | None:
        """Where an image lies, by its path below the data root; None if the pack has no such image."""
        wanted = name.encode()
        key = checksum(wanted)
        row = bisect_left(self._key, key)
        while row < self._count and self._key[row] == key:  # two names may share a checksum
            if self._names[self._end[row]:self._end[row + 1]] == wanted:
                return self.location(row)
            row += 1
        return None


def write_index(handle: IO[bytes] | BlockWriter, entries: Iterable[tuple[str, Location]]) -> None:
    """Write the index of ``entries`` (name below the data root, place) in any order."""
    rows = sorted((checksum(name.encode()), name.encode(), place) for name, place in entries)
    names = b"".join(name for _, name, _ in rows)
    handle.write(_HEAD.pack(_MAGIC, len(rows), len(names)))
    for column in ([key for key, _, _ in rows], [p.offset for _, _, p in rows], [p.length for _, _, p in rows],
                   [p.checksum for _, _, p in rows]):
        handle.write(struct.pack(f"<{len(rows)}Q", *column))
    end = 0
    ends = [0] + [end := end + len(name) for _, name, _ in rows]
    handle.write(struct.pack(f"<{len(ends)}Q", *ends))
    handle.write(struct.pack(f"<{len(rows)}I", *(p.file for _, _, p in rows)))
    handle.write(names)
