"""Shards: images one after the other in plain tar archives, each read where it lies and written once.

The bytes of a shard follow from the names and the contents of its images alone, not from times, owners or threads.
Headers are those of the standard library's tarfile (POSIX format). A shard is the unit of making a pack: a call that
was killed is resumed after the last complete one.
"""

from __future__ import annotations

import tarfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path

from ..base import files
from ..base.reading import LARGEST, Text, Unreadable
from .checksums import as_hex, from_hex
from .manifest import BLOCK, IMAGES, BlockWriter, Location, PackedFile, checksum
from .sources import SourceFile

AHEAD = 64  # images of one shard that are read before they are written: twice the threads, so that none is idle
AHEAD_BYTES = 64 << 20  # of one shard; as much again for each of the AT_ONCE shards that are written beside it
END = bytes(2 * tarfile.BLOCKSIZE)  # closes an archive

_SUMS = Text(r"([0-9a-f]{16})*", LARGEST)
_RECORD = {"members": Text(r"[0-9a-f]{16}"), "images": _SUMS, "blocks": _SUMS}


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
    members: tuple[SourceFile, ...]

    @property
    def size(self) -> int:
        return sum(room(s.name, s.size) for s in self.members) + len(END)

    @property
    def identity(self) -> str:
        """Changes with the names and sizes of its images."""
        return f"{checksum(repr([(s.name, s.size) for s in self.members]).encode()):016x}"

    def locations(self, checksums: Iterable[int]) -> dict[str, Location]:
        """Where each image lies, by its name."""
        found, at = {}, 0
        for source, sum_ in zip(self.members, checksums):
            end = at + room(source.name, source.size)
            found[source.name] = Location(self.number, end - padding(source.size) - source.size, source.size, sum_)
            at = end
        return found


@dataclass(frozen=True)
class CompleteShard:
    """A shard that is written: with the checksums of its blocks, and of its images in their order."""

    shard: Shard
    blocks: tuple[int, ...]
    images: tuple[int, ...]

    @property
    def packed(self) -> PackedFile:
        return PackedFile(self.shard.name, self.shard.size, IMAGES, self.shard.group, self.blocks)

    def record(self, path: Path) -> None:
        """Record that it is complete, for a later call."""
        files.write_json(path, {"members": self.shard.identity, "images": as_hex(self.images),
                                "blocks": as_hex(self.blocks)})


def completed(shard: Shard, path: Path, record: Path) -> CompleteShard | None:
    """The shard at ``path``, if an earlier call has completed it and left its :meth:`CompleteShard.record`."""
    try:
        known = files.read_json(record, _RECORD)
        found = CompleteShard(shard, from_hex(known["blocks"]), from_hex(known["images"]))
        intact = known["members"] == shard.identity and path.stat().st_size == shard.size \
            and (len(found.blocks), len(found.images)) == (-(-shard.size // BLOCK), len(shard.members))
        return found if intact else None
    except (OSError, Unreadable):
        return None


def header(name: str, size: int) -> bytes:
    """What precedes an image in its archive."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def padding(size: int) -> int:
    """Zero bytes after an image of ``size`` bytes."""
    return -size % tarfile.BLOCKSIZE


def room(name: str, size: int) -> int:
    """Bytes that an image takes in an archive."""
    simple = name.isascii() and len(name) <= 100 and size < 8 << 30  # what the header's fields hold
    return (tarfile.BLOCKSIZE if simple else len(header(name, size))) + size + padding(size)


def divide(images: Sequence[SourceFile], group_of: dict[str, str], order: Sequence[str], limit: int) -> list[Shard]:
    """The shards of all images: those of one group together, in the order of their names.

    Args:
        limit: Bytes of a shard; one image may have more.
    """
    members: dict[str, list[SourceFile]] = {group: [] for group in order}
    for source in sorted(images, key=lambda s: s.name):
        members[group_of[source.name]].append(source)
    found: list[Shard] = []
    for group in order:
        for number, part in enumerate(_parts(members[group], limit)):
            found.append(Shard(f"{IMAGES}/{group}-{number:05d}.tar", group, len(found), tuple(part)))
    return found


def _parts(members: Sequence[SourceFile], limit: int) -> Iterator[list[SourceFile]]:
    part: list[SourceFile] = []
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
          stop: threading.Event) -> CompleteShard:
    """Write one shard, whole or not at all.

    Args:
        advance: Called with the bytes of each image that is written.
        stop: Set where another thread has failed.

    Raises:
        UserError: An image cannot be read.
        OSError: The shard cannot be written.
        Stopped: ``stop`` was set.
    """
    images = []
    with files.replacing(path) as handle:
        out = BlockWriter(handle)
        for source, (data, sum_) in _read_ahead(shard.members, readers, stop):
            images.append(sum_)
            out.write(b"".join((header(source.name, source.size), data, bytes(padding(len(data))))))
            files.kill_point("in-shard", path)
            advance(len(data))
        out.write(END)
    return CompleteShard(shard, out.blocks(), tuple(images))


def _read(source: SourceFile) -> tuple[bytes, int]:
    data = source.read()
    return data, checksum(data)


def _read_ahead(members: Sequence[SourceFile], readers: Executor,
                stop: threading.Event) -> Iterator[tuple[SourceFile, tuple[bytes, int]]]:
    """Images with their bytes and checksums, in order; a bounded number of them is read ahead."""
    pending: deque[tuple[SourceFile, Future[tuple[bytes, int]]]] = deque()
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
