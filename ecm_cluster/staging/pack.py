"""A pack: a data set as a few large files. What lies in one, and how it is written down.

::

    PACK/
      pack.json                          what the files are, with a checksum of every block; written last
      index.bin                          where each image lies: name -> file, offset, length, checksum
      images/lvis_v1_train-00000.tar     images as plain tar archives, which any tar reads; never unpacked here
      annotations/lvis_v1_train.json     as published
      annotations/lvis_v1_train.columns  the same for training: memory-mapped columns (:mod:`mmdet_ext.annotations`)

A pack can stand in the place of the data root that it was made of. Images are grouped by the first annotation file that
names them, so that a node copies what its job reads and nothing else. Without images (``images/`` and ``index.bin``) a
pack holds annotations alone.

Checksums are xxh3 (64 bits, the ``xxhash`` library): they find what disks and networks break, at the speed of memory.
They are no protection against somebody who means harm.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import sys
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .. import files
from ..errors import UserError

FORMAT = 1
BLOCK = 8 << 20  # bytes that are copied, checked, and repaired at once
IMAGES, INDEX, ANNOTATIONS = "images", "index", "annotations"  # kinds of files
MANIFEST, INDEX_FILE = "pack.json", "index.bin"


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
        self._state, self._done, self.size = self._new(), [], 0

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


def block_checksums(path: str | os.PathLike) -> tuple[int, ...]:
    """xxh3 of each block of a file."""
    with open(path, "rb") as handle:
        return tuple(checksum(block) for block in iter(lambda: handle.read(BLOCK), b""))


@dataclass(frozen=True)
class PackedFile:
    """One file of a pack.

    Attributes:
        name: Path below the pack, with ``/``.
        size: Bytes.
        kind: ``images``, ``index`` or ``annotations``.
        group: Of images: the annotation file that they were grouped by; of annotations: the file that they are of.
        blocks: xxh3 of each block of :data:`BLOCK` bytes; the last one may be shorter.
    """

    name: str
    size: int
    kind: str
    group: str
    blocks: tuple[int, ...]

    def span(self, block: int) -> tuple[int, int]:
        """(offset, length) of a block."""
        offset = block * BLOCK
        return offset, min(BLOCK, self.size - offset)


@dataclass(frozen=True)
class AnnotationFile:
    """What a pack knows of one annotation file.

    Attributes:
        name: Its path below the data root, e.g. ``annotations/lvis_v1_train.json``.
        digest: ``sha256:<hex>`` of the file.
        columns: Name of the packed file that holds it as columns; None where they were not made.
        groups: The groups that hold images it names.
    """

    name: str
    digest: str
    columns: str | None
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Pack:
    """A pack that is whole.

    Attributes:
        path: Its folder.
        digest: Names its content, and so the place on each node's scratch: 16 hexadecimal digits.
        images: How many images it holds.
    """

    path: Path
    digest: str
    files: tuple[PackedFile, ...]
    annotations: tuple[AnnotationFile, ...]
    images: int

    def file(self, name: str) -> PackedFile:
        return next(f for f in self.files if f.name == name)

    def image_files(self) -> list[PackedFile]:
        """Those that hold images, in the order of their numbers in the index."""
        return [f for f in self.files if f.kind == IMAGES]

    def annotation(self, name: str) -> AnnotationFile | None:
        """By its path below the data root, such as ``annotations/lvis_v1_train.json``."""
        return next((a for a in self.annotations if a.name == name), None)

    def needed(self, annotation_files: Iterable[str], images: bool) -> list[PackedFile]:
        """What training or evaluation on these annotation files reads, in the order in which to copy it.

        Args:
            annotation_files: Their paths below the data root; where the pack does not know one, all images are needed.
            images: Whether images are wanted, or annotations alone.
        """
        known = {a.name: a for a in self.annotations}
        asked = [known.get(name) for name in annotation_files]
        columns = {a.columns for a in asked if a is not None}
        groups = {group for a in asked if a is not None for group in a.groups}
        every = None in asked
        wanted = [f for f in self.files if f.kind == ANNOTATIONS and f.name in columns]
        if images:
            wanted += [f for f in self.files if f.kind == INDEX]
            wanted += [f for f in self.files if f.kind == IMAGES and (every or f.group in groups)]
        return wanted

    def has_image(self, name: str) -> bool:
        """Whether it holds an image, by its path below the data root."""
        return self.images > 0 and self.open_index().find(name) is not None

    def open_index(self, path: Path | None = None) -> Index:
        """The index of its images.

        Args:
            path: A copy of it elsewhere.
        """
        return Index(path or self.path / INDEX_FILE)


def is_pack(path: str | os.PathLike) -> bool:
    """Whether a folder is a pack, and not a plain data root."""
    return Path(path, MANIFEST).is_file()


def read(path: str | os.PathLike) -> Pack:
    """The pack in a folder.

    Raises:
        UserError: There is none that can be read.
    """
    folder = Path(path).absolute()
    try:
        record = files.read_json(folder / MANIFEST)
        if record["format"] != FORMAT:
            raise UserError(f"pack: {folder} has format {record['format']!r}, this program reads {FORMAT}; pack the "
                            "data again with `python -m ecm_cluster.stage pack`")
        packed = tuple(PackedFile(f["name"], f["size"], f["kind"], f["group"], from_hex(f["blocks"]))
                       for f in record["files"])
        annotated = tuple(AnnotationFile(a["name"], a["digest"], a["columns"], tuple(a["groups"]))
                          for a in record["annotations"])
        return Pack(folder, record["digest"], packed, annotated, record["images"])
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"pack: {folder} is none, it has no {MANIFEST}; make one with "
                        "`python -m ecm_cluster.stage pack DATA_ROOT`") from None
    except UserError:
        raise
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"pack: {folder / MANIFEST} cannot be read ({error}); pack the data again") from None


def describe(packed: Sequence[PackedFile], annotations: Sequence[AnnotationFile], images: int,
             **more: Any) -> dict[str, Any]:
    """The content of pack.json.

    Args:
        more: What else is on record, say where the data came from; no part of the pack's digest.
    """
    record = {"format": FORMAT, "images": images,
              "files": [{"name": f.name, "size": f.size, "kind": f.kind, "group": f.group, "blocks": as_hex(f.blocks)}
                        for f in packed],
              "annotations": [{"name": a.name, "digest": a.digest, "columns": a.columns, "groups": list(a.groups)}
                              for a in annotations]}
    digest = f"{checksum(json.dumps(record, sort_keys=True).encode()):016x}"
    return {"digest": digest, **more, **record}


def as_hex(numbers: Iterable[int]) -> str:
    return "".join(f"{n:016x}" for n in numbers)


def from_hex(text: str) -> tuple[int, ...]:
    return tuple(int(text[at:at + 16], 16) for at in range(0, len(text), 16))


# ---------------------------------------------------------------------------------------------- where an image lies


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

    Opening costs a system call, whatever the number of images; finding one a binary search by the checksum of its name.
    """

    def __init__(self, path: Path) -> None:
        if sys.byteorder != "little":
            raise OSError(f"{path}: an index of images can be read on little-endian machines only")
        with open(path, "rb") as handle:
            self._map = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        whole = memoryview(self._map)
        try:
            magic, self._count, names = _HEAD.unpack_from(whole)
            if magic != _MAGIC or len(whole) != _HEAD.size + self._count * 44 + 8 + names:
                raise struct.error
        except struct.error:
            raise OSError(f"{path}: is no index of images, or not all of it") from None
        at = _HEAD.size

        def column(kind: str, rows: int) -> memoryview:
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
        return Location(self._file[row], self._offset[row], self._length[row], self._sum[row])

    def find(self, name: str) -> Location | None:
        """Where an image lies, by its path below the data root; None where the pack has none of that name."""
        wanted = name.encode()
        key = checksum(wanted)
        row = bisect_left(self._key, key)
        while row < self._count and self._key[row] == key:  # two names may share a checksum
            if self._names[self._end[row]:self._end[row + 1]] == wanted:
                return self.location(row)
            row += 1
        return None


def write_index(handle: IO[bytes], entries: Iterable[tuple[str, Location]]) -> None:
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
