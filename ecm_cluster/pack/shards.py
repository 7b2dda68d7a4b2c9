"""Shards: images one behind the other in plain tar archives, each read where it lies and written once.

The bytes of a shard follow from the names and the contents of its images alone, not from times, owners or threads.
Headers are those of the standard library's tarfile (POSIX format).
"""

from __future__ import annotations

import tarfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Tuple

from ..base import files
from .pack import IMAGES, BlockWriter, Location, PackedFile, checksum
from .sources import Source

AHEAD = 64  # images of one shard that are read before the one that is written
AHEAD_BYTES = 64 << 20
END = bytes(2 * tarfile.BLOCKSIZE)  # closes an archive

Entry = Tuple[str, Location]


class Stopped(Exception):
    """Another thread has failed."""


@dataclass(frozen=True)
class Shard:
    """One archive to be written.

    Attributes:
        name: Path below the pack.
        number: Its number in the index.
    """

    name: str
    group: str
    number: int
    members: tuple[Source, ...]

    @property
    def size(self) -> int:
        return sum(room(s.name, s.size) for s in self.members) + len(END)


def header(name: str, size: int) -> bytes:
    """What stands before an image in its archive."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def padding(size: int) -> int:
    """Zero bytes behind an image of ``size`` bytes."""
    return -size % tarfile.BLOCKSIZE


def room(name: str, size: int) -> int:
    """Bytes that an image takes in an archive."""
    simple = name.isascii() and len(name) <= 100 and size < 8 << 30  # what the header's fields hold
    return (tarfile.BLOCKSIZE if simple else len(header(name, size))) + size + padding(size)


def divide(images: Sequence[Source], group_of: dict[str, str], order: Sequence[str], limit: int) -> list[Shard]:
    """The shards of all images: those of one group together, in the order of their names.

    Args:
        group_of: The group of each image by its name.
        order: All groups.
        limit: Bytes of a shard; one image may have more.
    """
    members: dict[str, list[Source]] = {group: [] for group in order}
    for source in sorted(images, key=lambda s: s.name):
        members[group_of[source.name]].append(source)
    found: list[Shard] = []
    for group in order:
        for number, part in enumerate(_parts(members[group], limit)):
            found.append(Shard(f"{IMAGES}/{group}-{number:05d}.tar", group, len(found), tuple(part)))
    return found


def _parts(members: Sequence[Source], limit: int) -> Iterator[list[Source]]:
    part: list[Source] = []
    size = len(END)
    for source in members:
        more = room(source.name, source.size)
        if part and size + more > limit:
            yield part
            part, size = [], len(END)
        part.append(source)
        size += more
    if part:
        yield part


def write(shard: Shard, path: Path, readers: Executor, advance: Callable[[int], None],
          stop: threading.Event) -> tuple[PackedFile, list[Entry]]:
    """Write one shard, whole or not at all.

    Args:
        readers: Reads images, several at once.
        advance: Told the bytes of each image that is written.
        stop: Set where another thread has failed.

    Returns:
        The file, and where each image lies.

    Raises:
        UserError: An image cannot be read.
        OSError: The shard cannot be written.
        Stopped: ``stop`` was set.
    """
    entries: list[Entry] = []
    with files.replacing(path) as handle:
        out = BlockWriter(handle)
        for source, (data, found) in _read_ahead(shard.members, readers, stop):
            before = header(source.name, source.size)
            entries.append((source.name, Location(shard.number, out.size + len(before), len(data), found)))
            out.write(b"".join((before, data, bytes(padding(len(data))))))
            files.kill_point("in-shard", path)
            advance(len(data))
        out.write(END)
    return PackedFile(shard.name, out.size, IMAGES, shard.group, out.blocks()), entries


def _read(source: Source) -> tuple[bytes, int]:
    data = source.read()
    return data, checksum(data)


def _read_ahead(members: Sequence[Source], readers: Executor,
                stop: threading.Event) -> Iterator[tuple[Source, tuple[bytes, int]]]:
    """Images with their bytes and checksums, in order; a bounded number of them is read ahead."""
    pending: deque[tuple[Source, Future[tuple[bytes, int]]]] = deque()
    size, following = 0, 0
    try:
        while pending or following < len(members):
            while following < len(members) and (not pending or len(pending) < AHEAD and size < AHEAD_BYTES):
                pending.append((members[following], readers.submit(_read, members[following])))
                size += members[following].size
                following += 1
            source, future = pending.popleft()
            found = future.result()
            if stop.is_set():
                raise Stopped
            size -= source.size
            yield source, found
    finally:
        for _, future in pending:
            future.cancel()
