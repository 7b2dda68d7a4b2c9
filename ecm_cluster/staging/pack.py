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
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import files
from ..errors import UserError
from .checksums import BLOCK, BlockWriter, as_hex, block_checksums, checksum, from_hex
from .image_index import Index, Location, write_index

__all__ = ["ANNOTATIONS", "BLOCK", "FORMAT", "IMAGES", "INDEX", "INDEX_FILE", "MANIFEST", "AnnotationFile",
           "BlockWriter", "Index", "Location", "Pack", "PackedFile", "block_checksums", "checksum", "describe",
           "is_pack", "read", "write_index"]

FORMAT = 1
IMAGES, INDEX, ANNOTATIONS = "images", "index", "annotations"  # kinds of files
MANIFEST, INDEX_FILE = "pack.json", "index.bin"


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
