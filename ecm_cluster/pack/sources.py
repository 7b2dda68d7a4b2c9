"""What a data root holds: images and annotation files, in folders and in zip files, read where they are.

Covered: folders of any depth, symbolic links to folders, COCO's and LVIS's zip files in the root (LVIS's also in
``annotations/``), stored or deflated. Not covered: other archives, zip files inside other folders, encrypted ones,
files whose name starts with a dot. What is not an image by its suffix is skipped, and listed.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from ..base import files
from ..base.errors import UserError
from ..base.reading import open_regular
from ..base.units import size_text
from .manifest import is_pack
from .zip_archives import LARGEST_IMAGE, Archive, changed, unreadable

SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jp2", ".png", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif", ".ppm",
                      ".pgm", ".pbm", ".pnm", ".avif", ".npy", ".exr"))
ANNOTATIONS = "annotations"
THREADS = 32  # each of them mostly waits for a round trip of the network


class SourceFile(NamedTuple):
    """One file of a data root.

    Attributes:
        name: Path below the data root, with ``/``; of a member of a zip file as if that were unpacked there.
        size: Bytes.
        stamp: Changes with the file: when it was modified, in ns; of a member its CRC too.
        path: The file, or the zip file.
        archive, member: Of a member of a zip file.
    """

    name: str
    size: int
    stamp: tuple[int, ...]
    path: Path
    archive: Archive | None = None
    member: zipfile.ZipInfo | None = None

    @property
    def where(self) -> str:
        return f"{self.path}: member {self.member.filename}" if self.member is not None else str(self.path)

    def read(self) -> bytes:
        """All its bytes.

        Raises:
            UserError: It cannot be read, is corrupt, or has changed since it was found.
        """
        if self.archive is not None and self.member is not None:
            return self.archive.read(self.member)
        try:
            with os.fdopen(open_regular(self.path), "rb", buffering=0) as handle:
                data = handle.readall()
                now = os.fstat(handle.fileno())
        except OSError as error:
            raise unreadable(self.path, error) from None
        if (len(data), now.st_mtime_ns) != (self.size, self.stamp[0]):
            raise changed(self.path)
        return data

    def copy(self, out: files.Digesting) -> None:
        """Write its bytes, a piece at a time; raises as :meth:`read` does, and as writing does."""
        with self._open() as source:
            for piece in self._pieces(source):
                out.write(piece)
        if self.archive is not None:
            self.archive.check()
        elif (out.size, os.stat(self.path).st_mtime_ns) != (self.size, self.stamp[0]):
            raise changed(self.path)

    def _open(self) -> IO[bytes]:
        try:
            if self.member is None:
                return os.fdopen(open_regular(self.path), "rb")
            return zipfile.ZipFile(self.path).open(self.member)
        except OSError as error:
            raise unreadable(self.path, error) from None
        except UserError:
            raise
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, ValueError, struct.error) as error:
            raise UserError(f"{self.where} cannot be read ({error}); fetch the zip file again") from None

    def _pieces(self, source: IO[bytes]) -> Iterator[bytes]:
        try:
            yield from iter(lambda: source.read(4 << 20), b"")
        except OSError as error:
            raise unreadable(self.path, error) from None
        except (zipfile.BadZipFile, zlib.error, EOFError):
            raise UserError(f"{self.where} is corrupt; fetch the zip file again") from None


@dataclass(frozen=True)
class Sources:
    """What a data root holds.

    Attributes:
        images: In the order of their names.
        annotations: Named ``annotations/NAME.json``, in the order of their names.
        skipped: Files that are neither.
    """

    root: Path
    images: tuple[SourceFile, ...]
    annotations: tuple[SourceFile, ...]
    skipped: tuple[str, ...]

    def fingerprint(self, *more: object) -> str:
        """Names, sizes and times of all files, and ``more``, as one digest: whether anything changed."""
        lines = [f"{s.name}\0{s.size}\0{s.stamp}" for s in (*self.images, *self.annotations)]
        return files.digest_text("\n".join([repr(more), *lines]))


def scan(root: Path, leave_out: Collection[Path] = ()) -> Sources:
    """Find what a data root holds, except in the folders ``leave_out``.

    Raises:
        UserError: It is not a data root, something in it cannot be read, or two different files have one name.
    """
    if not root.is_dir():
        raise UserError(f"DATA_ROOT: {root} {'is a file' if root.exists() else 'does not exist'}; expected a folder "
                        "with images, or their zip files, and annotations/")
    if is_pack(root):
        raise UserError(f"DATA_ROOT: {root} is already a pack; use it as it is: --data-root {root}")
    paths: dict[str, Path] = {}
    skipped: list[str] = []
    for name, path in _walk(root, {os.path.realpath(path) for path in leave_out}):
        if _kind(name) is None:
            skipped.append(name)
        else:
            paths[name] = path
    plain = _look_at(paths)
    images = {s.name: s for s in plain if _kind(s.name) == "image"}
    annotations = {s.name: s for s in plain if _kind(s.name) == "json"}
    for zip_name in sorted(s.name for s in plain if _kind(s.name) == "zip"):
        archive, taken = Archive(paths[zip_name]), 0
        for source in _members(archive, images_too="/" not in zip_name):
            taken += source.size
            archive.check_total(taken)
            _add(annotations if source.name.endswith(".json") else images, source)
    if not images and not annotations:
        raise UserError(f"DATA_ROOT: {root} has no images and no annotations; expected folders such as train2017/ or "
                        "train2017.zip, and annotations/*.json")
    return Sources(root, tuple(images[name] for name in sorted(images)),
                   tuple(annotations[name] for name in sorted(annotations)), tuple(sorted(skipped)))


def _kind(name: str) -> str | None:
    """Whether a file is an ``image``, ``json`` of annotations, or a ``zip`` file that may hold either."""
    folder, _, base = name.rpartition("/")
    suffix = os.path.splitext(base)[1]
    if folder.split("/")[0] == ANNOTATIONS:
        return {".json": "json", ".zip": "zip"}.get(suffix) if folder == ANNOTATIONS else None
    if suffix == ".zip":
        return "zip" if not folder else None
    return "image" if suffix.lower() in SUFFIXES else None


def _walk(root: Path, leave_out: set[str]) -> Iterator[tuple[str, Path]]:
    """(name, path) of each file below a folder; a link to a folder above it is not followed."""
    waiting: list[tuple[Path, str, frozenset[tuple[int, int]]]] = [(root, "", frozenset())]
    while waiting:
        folder, prefix, above = waiting.pop()
        try:
            status = os.stat(folder)
            here = (status.st_dev, status.st_ino)
            if here in above or os.path.realpath(folder) in leave_out or (prefix and is_pack(folder)):
                continue
            entries = sorted(os.scandir(folder), key=lambda e: e.name)
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    if prefix != f"{ANNOTATIONS}/":  # COCO's panoptic masks, which are not images
                        waiting.append((folder / entry.name, f"{prefix}{entry.name}/", above | {here}))
                else:
                    yield f"{prefix}{entry.name}", folder / entry.name
        except OSError as error:
            raise unreadable(folder, error) from None


def _look_at(paths: dict[str, Path]) -> list[SourceFile]:
    def look(item: tuple[str, Path]) -> SourceFile:
        name, path = item
        try:
            name.encode()
            status = os.stat(path)
        except UnicodeEncodeError:
            raise UserError(f"{path!r}: its name is not valid UTF-8; rename it") from None
        except OSError as error:
            raise unreadable(path, error) from None
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: is not a regular file; remove it")
        source = SourceFile(name, status.st_size, (status.st_mtime_ns,), path)
        return source if _kind(name) == "zip" else _small_enough(source)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(look, paths.items()))


def _members(archive: Archive, images_too: bool) -> Iterator[SourceFile]:
    for member in archive.members:
        parts = PurePosixPath(member.filename).parts
        if any(part.startswith(".") or part == "__MACOSX" for part in parts) or parts[:1] == ("/",):
            if ".." in parts or parts[:1] == ("/",):
                raise UserError(f"{archive.path}: member {member.filename} leads out of the data root; fetch the zip "
                                "file again")
            continue
        stamp = (archive.stamp, member.CRC)
        if member.filename.endswith(".json"):
            name = f"{ANNOTATIONS}/{parts[-1]}"
        elif images_too and _kind(name := "/".join(parts)) == "image":
            pass
        else:
            continue
        archive.check_member(member)
        yield _small_enough(SourceFile(name, member.file_size, stamp, archive.path, archive, member))


def _small_enough(source: SourceFile) -> SourceFile:
    if source.size > LARGEST_IMAGE and not source.name.endswith(".json"):
        raise UserError(f"{source.where}: has {size_text(source.size)}; expected an image of at most "
                        f"{size_text(LARGEST_IMAGE)}: remove it")
    return source


def _add(found: dict[str, SourceFile], source: SourceFile) -> None:
    """Add a member of a zip file, unless the same file has been found already."""
    other = found.setdefault(source.name, source)
    crcs = {s.member.CRC for s in (other, source) if s.member is not None}
    if other.size != source.size or (other.member is not None and len(crcs) > 1):
        raise UserError(f"{source.name} exists twice with different content: {other.where} has {other.size} bytes, "
                        f"{source.where} has {source.size}; remove one of them")
