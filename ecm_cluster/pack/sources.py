"""What lies in a data root: images and annotation files, in folders and in zip files, read where they are.

Covered: folders of any depth, symbolic links to folders, COCO's and LVIS's zip files in the root (LVIS's also in
``annotations/``), stored or deflated. Not covered: other archives, zip files inside other folders, encrypted ones,
files whose name starts with a dot. What is no image by its suffix is passed over, and listed.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, Protocol

from ..base import files
from ..base.errors import UserError
from ..base.reading import open_regular
from ..base.units import size_text
from .pack import is_pack
from .zip_archives import LARGEST_IMAGE, Archive, changed, unreadable

SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jp2", ".png", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif", ".ppm",
                      ".pgm", ".pbm", ".pnm", ".avif", ".npy", ".exr"))
ANNOTATIONS = "annotations"
THREADS = 32  # each waits for a round trip of the network most of the time


class Writable(Protocol):
    def write(self, data: bytes, /) -> int: ...


class Source(NamedTuple):
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
            UserError: It cannot be read, is corrupt, or is not as it was when it was found.
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

    def copy(self, handle: Writable) -> None:
        """Write its bytes to an open file, a piece at a time; raises as :meth:`read` does, and as writing does."""
        try:
            source = self._open()
        except OSError as error:
            raise unreadable(self.path, error) from None
        with source:
            size = 0
            for piece in self._pieces(source):
                handle.write(piece)
                size += len(piece)
        if self.archive is not None:
            self.archive.check()
        elif (size, os.stat(self.path).st_mtime_ns) != (self.size, self.stamp[0]):
            raise changed(self.path)

    def _open(self) -> IO[bytes]:
        if self.member is None:
            return os.fdopen(open_regular(self.path), "rb")
        try:
            return zipfile.ZipFile(self.path).open(self.member)
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, ValueError, struct.error) as error:
            raise UserError(f"{self.where} cannot be read ({error}); fetch the zip file again") from None

    def _pieces(self, source: IO[bytes]) -> Iterator[bytes]:
        while True:
            try:
                piece = source.read(4 << 20)
            except OSError as error:
                raise unreadable(self.path, error) from None
            except (zipfile.BadZipFile, zlib.error, EOFError):
                raise UserError(f"{self.where} is corrupt; fetch the zip file again") from None
            if not piece:
                return
            yield piece


@dataclass(frozen=True)
class Sources:
    """What a data root holds.

    Attributes:
        images: In the order of their names.
        annotations: Named ``annotations/NAME.json``, in the order of their names.
        passed_over: Files that are neither.
    """

    root: Path
    images: tuple[Source, ...]
    annotations: tuple[Source, ...]
    passed_over: tuple[str, ...]

    def fingerprint(self, *more: object) -> str:
        """Names, sizes and times of all files, and ``more``, as one digest: whether anything changed."""
        lines = [f"{s.name}\0{s.size}\0{s.stamp}" for s in (*self.images, *self.annotations)]
        return files.digest_text("\n".join([repr(more), *lines]))


def scan(root: Path, leave_out: Collection[Path] = ()) -> Sources:
    """Find what a data root holds.

    Args:
        leave_out: Folders that are not looked into.

    Raises:
        UserError: It is no data root, something in it cannot be read, or a name is there twice with unlike content.
    """
    if not root.is_dir():
        raise UserError(f"DATA_ROOT: {root} {'is a file' if root.exists() else 'does not exist'}; give a folder with "
                        "images, or their zip files, and annotations/")
    if is_pack(root):
        raise UserError(f"DATA_ROOT: {root} is a pack already; use it as it is: --data-root {root}")
    paths: dict[str, Path] = {}
    passed: list[str] = []
    for name, path in _walk(root, {os.path.realpath(path) for path in leave_out}):
        if _kind(name) is None:
            passed.append(name)
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
                   tuple(annotations[name] for name in sorted(annotations)), tuple(sorted(passed)))


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
    """(name, path) of each file below a folder; a link that leads back to a folder above it is not followed."""
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
                    if prefix != f"{ANNOTATIONS}/":  # COCO's panoptic masks: no images
                        waiting.append((folder / entry.name, f"{prefix}{entry.name}/", above | {here}))
                else:
                    yield f"{prefix}{entry.name}", folder / entry.name
        except OSError as error:
            raise unreadable(folder, error) from None


def _look_at(paths: dict[str, Path]) -> list[Source]:
    def look(item: tuple[str, Path]) -> Source:
        name, path = item
        try:
            name.encode()
            status = os.stat(path)
        except UnicodeEncodeError:
            raise UserError(f"{path!r}: its name is no UTF-8; rename it") from None
        except OSError as error:
            raise unreadable(path, error) from None
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: is no ordinary file; take it away")
        source = Source(name, status.st_size, (status.st_mtime_ns,), path)
        return source if _kind(name) == "zip" else _small_enough(source)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(look, paths.items()))


def _members(archive: Archive, images_too: bool) -> Iterator[Source]:
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
        yield _small_enough(Source(name, member.file_size, stamp, archive.path, archive, member))


def _small_enough(source: Source) -> Source:
    if source.size > LARGEST_IMAGE and not source.name.endswith(".json"):
        raise UserError(f"{source.where}: has {size_text(source.size)}, and an image at most "
                        f"{size_text(LARGEST_IMAGE)}; remove it")
    return source


def _add(found: dict[str, Source], source: Source) -> None:
    """Take a member of a zip file, unless the same file is there already."""
    other = found.setdefault(source.name, source)
    crcs = {s.member.CRC for s in (other, source) if s.member is not None}
    if other.size != source.size or (other.member is not None and len(crcs) > 1):
        raise UserError(f"{source.name} is there twice, and not the same: {other.where} has {other.size} bytes, "
                        f"{source.where} has {source.size}; take one of them away")


def first_of(names: Iterable[str], count: int = 3) -> str:
    """The first names, and that there are more."""
    listed = list(names)
    return ", ".join(listed[:count]) + (", …" if len(listed) > count else "")
