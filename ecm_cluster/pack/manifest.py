"""A pack: a data set as a few large files. What one contains, and its manifest.

::

    PACK/
      pack.json                          what the files are, with a checksum of every block; written last
      index.bin                          where each image lies: name -> file, offset, length, checksum
      images/lvis_v1_train-00000.tar     images as plain tar archives, which any tar reads; never unpacked here
      annotations/lvis_v1_train.json     as published
      annotations/lvis_v1_train.columns  the same, memory-mapped, for training (:mod:`mmdet_ext.data.annotations`)

A pack can replace the data root that it was made of. Images are grouped by the first annotation file that names them,
so that a node copies only what its job reads. Without images (``images/`` and ``index.bin``) a pack holds annotations
alone.

A user that can write a pack decides what its images are, but nothing else: everything that a pack says of itself, names
above all, is checked by :func:`read` before it is used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base import files
from ..base.errors import UserError
from ..base.reading import LARGEST, Maybe, Number, OneOf, OptionalKey, Text, Unreadable, check, check_inside
from .checksums import BLOCK, BlockWriter, as_hex, block_checksums, checksum, from_hex
from .index import Index, Location, write_index

__all__ = ["ANNOTATIONS", "BLOCK", "FORMAT", "IMAGES", "INDEX", "INDEX_FILE", "MANIFEST", "AnnotationFile",
           "BlockWriter", "Index", "Location", "Pack", "PackedFile", "block_checksums", "checksum", "describe",
           "is_pack", "read", "write_index"]

FORMAT = 1
IMAGES, INDEX, ANNOTATIONS = "images", "index", "annotations"  # kinds of files
MANIFEST, INDEX_FILE = "pack.json", "index.bin"
TMP = ".tmp"  # suffix of a file that is being copied
KEPT = ("manifest.json", "lease", "copy.lock", "damaged", MANIFEST)  # names that a copy of a pack uses for itself

_SHA256 = Text(r"sha256:[0-9a-f]{64}", called="sha256: and 64 hexadecimal digits")
_SHAPE = {
    "digest": Text(r"[0-9a-f]{16}", called="16 hexadecimal digits"),
    "images": Number(0, 2**40),
    "files": [{"name": str, "size": Number(0, 2**60), "kind": OneOf(IMAGES, INDEX, ANNOTATIONS), "group": str,
               "blocks": Text(r"[0-9a-f]*", LARGEST, "checksums of 16 hexadecimal digits each")}],
    "annotations": [{"name": str, "digest": _SHA256, "columns": Maybe(str),
                     "groups": [Text(r"[^/\0]{1,255}", called="a name without a slash")]}],
    OptionalKey("source"): str, OptionalKey("fingerprint"): _SHA256,
}


@dataclass(frozen=True)
class PackedFile:
    """One file of a pack.

    Attributes:
        name: Path below the pack, with ``/``.
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
    """What a pack has on record of one annotation file.

    Attributes:
        name: Its path below the data root, e.g. ``annotations/lvis_v1_train.json``.
        digest: ``sha256:<hex>`` of the file.
        columns: Name of the packed file that holds it as columns; None if they were not made.
        groups: The groups that hold images it names.
    """

    name: str
    digest: str
    columns: str | None
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Pack:
    """A complete pack.

    Attributes:
        digest: Identifies its content, and so its folder on each node's scratch: 16 hexadecimal digits.
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
        """Those with images, in the order of their numbers in the index."""
        return [f for f in self.files if f.kind == IMAGES]

    def annotation(self, name: str) -> AnnotationFile | None:
        """By its path below the data root, such as ``annotations/lvis_v1_train.json``."""
        return next((a for a in self.annotations if a.name == name), None)

    def needed(self, annotation_files: Iterable[str], images: bool) -> list[PackedFile]:
        """What training or evaluation on these annotation files reads, in the order in which to copy it.

        Args:
            annotation_files: Their paths below the data root; if one is not in the pack, all images are needed.
        """
        asked = [self.annotation(name) for name in annotation_files]
        columns = {a.columns for a in asked if a is not None}
        groups = {group for a in asked if a is not None for group in a.groups}
        wanted = [f for f in self.files if f.kind == ANNOTATIONS and f.name in columns]
        if images:
            wanted += [f for f in self.files if f.kind == INDEX]
            wanted += [f for f in self.image_files() if None in asked or f.group in groups]
        return wanted

    def open_index(self, path: Path | None = None) -> Index:
        """The index of its images, or a copy of it; every location in it is within the pack's files.

        Raises:
            Unreadable: It does not exist, or its content is not what was packed.
            OSError: It cannot be read.
        """
        path, packed = path or self.path / INDEX_FILE, next((f for f in self.files if f.kind == INDEX), None)
        if packed is None:
            raise Unreadable(self.path / MANIFEST, "files", "lacks the index of images; pack the data again")
        remedy = f"see `python -m ecm_cluster.stage verify {self.path}`"
        try:
            index = Index(path, [f.size for f in self.image_files()])
        except FileNotFoundError:
            raise Unreadable(path, "", f"does not exist; {remedy}") from None
        # some megabytes at the speed of memory: a bit flipped by a disk would lead to another image, or to none
        if index.blocks() != packed.blocks or len(index) != self.images:
            raise Unreadable(path, "", f"is damaged; {remedy}")
        return index


def is_pack(path: str | os.PathLike) -> bool:
    """Whether a folder is a pack, and not a plain data root."""
    return Path(path, MANIFEST).is_file()


def read(path: str | os.PathLike) -> Pack:
    """The pack in a folder.

    Raises:
        UserError: There is none that can be read.
    """
    folder = Path(path).absolute()
    manifest = folder / MANIFEST
    try:
        record = files.read_json(manifest, dict)
        if record.get("format") != FORMAT:
            raise UserError(f"pack: {folder} has format {str(record.get('format'))[:20]}; expected {FORMAT}: pack the "
                            "data again with `python -m ecm_cluster.stage pack`")
        return _checked(folder, check(record, _SHAPE, manifest))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"pack: {folder} is not a pack: it has no {MANIFEST}; make one with "
                        "`python -m ecm_cluster.stage pack DATA_ROOT`") from None
    except (Unreadable, OSError) as error:
        problem = str(error)[len(f"{error.path}: "):] if isinstance(error, Unreadable) else error.strerror or error
        raise UserError(f"pack: {manifest} cannot be read ({problem}); pack the data again") from None


def _checked(folder: Path, record: dict[str, Any]) -> Pack:
    """The pack of a record that has the right shape.

    Raises:
        Unreadable: It contradicts itself.
    """
    manifest = folder / MANIFEST

    def demand(right: bool, field: str, problem: str) -> None:
        if not right:
            raise Unreadable(manifest, field, problem)

    for n, f in enumerate(record["files"]):
        check_name(f["name"], folder, f"files[{n}].name")
        blocks = -(-f["size"] // BLOCK)
        demand(len(f["blocks"]) == 16 * blocks, f"files[{n}].blocks",
               f"{len(f['blocks'])} digits; expected {16 * blocks}, for {blocks} blocks in {f['size']} bytes")
        demand((f["kind"] == INDEX) == (f["name"] == INDEX_FILE), f"files[{n}].kind", f"{f['kind']} for {f['name']}")
    packed = tuple(PackedFile(f["name"], f["size"], f["kind"], f["group"], from_hex(f["blocks"]))
                   for f in record["files"])
    annotated = tuple(AnnotationFile(a["name"], a["digest"], a["columns"], tuple(a["groups"]))
                      for a in record["annotations"])
    columns = {None, *(f.name for f in packed if f.kind == ANNOTATIONS)}
    groups = {f.group for f in packed if f.kind == IMAGES}
    for n, annotation in enumerate(annotated):
        check_inside(folder, annotation.name, manifest, f"annotations[{n}].name")
        demand(annotation.columns in columns, f"annotations[{n}].columns", "names a file that is not listed")
        demand(groups.issuperset(annotation.groups), f"annotations[{n}].groups", "names a group without images")
    names = sorted(f"{f.name}/" for f in packed)
    demand(not any(after.startswith(name) for name, after in zip(names, names[1:])), "files",
           "two have the same name, or one is inside the other")
    demand(len({a.name for a in annotated}) == len(annotated), "annotations", "two have the same name")
    demand(record["images"] == 0 or f"{INDEX_FILE}/" in names, "files", f"lacks {INDEX_FILE}, the index of images")
    digest = describe(packed, annotated, record["images"])["digest"]
    demand(record["digest"] == digest, "digest", f"invalid value {record['digest']}; its content has {digest}")
    return Pack(folder, digest, packed, annotated, record["images"])


def check_name(name: str, folder: Path, field: str = "") -> None:
    """Raise :class:`Unreadable` if a file of a pack would be outside its copy, or replace what is kept there."""
    check_inside(folder, name, folder / MANIFEST, field)
    if name.endswith(TMP) or name.split("/")[0] in KEPT:
        raise Unreadable(folder / MANIFEST, field, f"a file named {name!r} cannot be staged")


def describe(packed: Sequence[PackedFile], annotations: Sequence[AnnotationFile], images: int,
             **more: Any) -> dict[str, Any]:
    """The content of pack.json; ``more``, such as where the data came from, is not part of the pack's digest."""
    record = {"format": FORMAT, "images": images,
              "files": [{**vars(f), "blocks": as_hex(f.blocks)} for f in packed],
              "annotations": [{**vars(a), "groups": list(a.groups)} for a in annotations]}
    digest = f"{checksum(json.dumps(record, sort_keys=True).encode()):016x}"
    return {"digest": digest, **more, **record}
