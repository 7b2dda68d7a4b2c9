"""A pack: a data set as a few large files. What lies in one, and how it is written down.

::

    PACK/
      pack.json                          what the files are, with a checksum of every block; written last
      index.bin                          where each image lies: name -> file, offset, length, checksum
      images/lvis_v1_train-00000.tar     images as plain tar archives, which any tar reads; never unpacked here
      annotations/lvis_v1_train.json     as published
      annotations/lvis_v1_train.columns  the same for training, memory-mapped (:mod:`mmdet_ext.data.annotations`)

A pack can stand in the place of the data root that it was made of. Images are grouped by the first annotation file that
names them, so that a node copies what its job reads and nothing else. Without images (``images/`` and ``index.bin``) a
pack holds annotations alone.

Checksums are xxh3 (64 bits, the ``xxhash`` library): they find what disks and networks break, at the speed of memory.
They are no protection against somebody who means harm: whoever may write a pack decides what its images are. They
decide nothing else. Whatever a pack says of itself is checked by :func:`read` before it is used, names above all.
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
from .image_index import Index, Location, write_index

__all__ = ["ANNOTATIONS", "BLOCK", "FORMAT", "IMAGES", "INDEX", "INDEX_FILE", "MANIFEST", "AnnotationFile",
           "BlockWriter", "Index", "Location", "Pack", "PackedFile", "block_checksums", "checksum", "describe",
           "is_pack", "read", "write_index"]

FORMAT = 1
IMAGES, INDEX, ANNOTATIONS = "images", "index", "annotations"  # kinds of files
MANIFEST, INDEX_FILE = "pack.json", "index.bin"
TMP = ".tmp"  # behind the name of a file that is being copied
KEPT = ("manifest.json", "lease", "copy.lock", "damaged", MANIFEST)  # names that a copy of a pack needs for itself

_GROUP = Text(r"[^/\0]{1,255}", called="a name without a slash")
_BLOCKS = Text(r"[0-9a-f]*", LARGEST, "checksums of 16 hexadecimal digits each")
_SHAPE = {
    "digest": Text(r"[0-9a-f]{16}", called="16 hexadecimal digits"),
    "images": Number(0, 2**40),
    "files": [{"name": str, "size": Number(0, 2**60), "kind": OneOf(IMAGES, INDEX, ANNOTATIONS), "group": str,
               "blocks": _BLOCKS}],
    "annotations": [{"name": str, "digest": Text(r"sha256:[0-9a-f]{64}", called="sha256: and 64 hexadecimal digits"),
                     "columns": Maybe(str), "groups": [_GROUP]}],
    OptionalKey("source"): str,
    OptionalKey("fingerprint"): Text(r"sha256:[0-9a-f]{64}", called="sha256: and 64 hexadecimal digits"),
}


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
        """The index of its images, which lead nowhere but into its files.

        Args:
            path: A copy of it elsewhere.

        Raises:
            Unreadable: It is missing, or its content is not what was packed.
            OSError: It cannot be read.
        """
        path, packed = path or self.path / INDEX_FILE, next((f for f in self.files if f.kind == INDEX), None)
        if packed is None:
            raise Unreadable(self.path / MANIFEST, "files", "lacks the index of images; pack the data again")
        try:
            index = Index(path, [f.size for f in self.image_files()])
        except FileNotFoundError:
            raise Unreadable(path, "", f"missing; see `python -m ecm_cluster.stage verify {self.path}`") from None
        # some megabytes at the speed of memory: a bit that a disk has flipped would lead to another image, or to none
        if index.blocks() != packed.blocks or len(index) != self.images:
            raise Unreadable(path, "", f"damaged; see `python -m ecm_cluster.stage verify {self.path}`")
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
            raise UserError(f"pack: {folder} has format {str(record.get('format'))[:20]}, this program reads {FORMAT}; "
                            "pack the data again with `python -m ecm_cluster.stage pack`")
        return _checked(folder, check(record, _SHAPE, manifest))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"pack: {folder} is none, it has no {MANIFEST}; make one with "
                        "`python -m ecm_cluster.stage pack DATA_ROOT`") from None
    except Unreadable as error:
        problem = str(error)[len(f"{error.path}: "):]
        raise UserError(f"pack: {manifest} cannot be read ({problem}); pack the data again") from None
    except OSError as error:
        raise UserError(f"pack: {manifest} cannot be read ({error.strerror or error}); pack the data again") from None


def _checked(folder: Path, record: dict[str, Any]) -> Pack:
    """The pack of a record that has the right shape, if it holds together.

    Raises:
        Unreadable: It does not.
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
           "two have the same name, or one lies in the other")
    demand(len({a.name for a in annotated}) == len(annotated), "annotations", "two have the same name")
    demand(record["images"] == 0 or f"{INDEX_FILE}/" in names, "files", f"lacks {INDEX_FILE}, the index of images")
    digest = describe(packed, annotated, record["images"])["digest"]
    demand(record["digest"] == digest, "digest", f"invalid value {record['digest']}; its content has {digest}")
    return Pack(folder, digest, packed, annotated, record["images"])


def check_name(name: str, folder: Path, field: str = "") -> None:
    """Refuse a file of a pack that would lie outside its copy, or in the place of what is kept there.

    Raises:
        Unreadable: It would.
    """
    check_inside(folder, name, folder / MANIFEST, field)
    if name.endswith(TMP) or name.split("/")[0] in KEPT:
        raise Unreadable(folder / MANIFEST, field, f"a file named {name!r} cannot be staged")


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
