"""Images out of a pack: from the copy on this node's scratch where there is one, else from shared storage.

Each image is checked as it is read (xxh3, a few microseconds). Where the copy is wrong or missing, the image is read
from the pack itself, and the damage is reported for the next start to repair: training continues with the right bytes.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ..base.reading import Unreadable, open_regular
from ..pack.manifest import INDEX_FILE, Index, Location, Pack, block_checksums, checksum, read
from .staged_set import SetFolder


def right_copy(pack: Pack, name: str, folder: Path) -> Path | None:
    """A file of a pack in its copy on this node; None, and reported for the next start, where that is not right.

    All of it is read: what is mapped into memory is not checked later on.
    """
    try:
        if block_checksums(folder / name) == pack.file(name).blocks:
            return folder / name
    except (OSError, Unreadable):
        return None
    _report(folder, name)
    return None


def _report(folder: Path, name: str) -> None:
    with contextlib.suppress(OSError):  # missing, or a scratch that is read-only: the images are what matters
        SetFolder(folder).report_damage(name)


class PackedImages:
    """Images of a pack by their paths; ``folder`` is its copy on this node, complete or not.

    Safe to use after a fork: nothing is read through a shared file position.
    """

    def __init__(self, pack: Pack, folder: Path | None = None) -> None:
        self.pack, self.folder = pack, folder
        self._files = pack.image_files()
        self._descriptors: dict[tuple[bool, int], int] = {}
        self._index = self._copied_index() or pack.open_index()

    @classmethod
    def open(cls, pack: str, folder: str | None = None) -> PackedImages:
        return cls(read(pack), Path(folder) if folder else None)

    def _copied_index(self) -> Index | None:
        """The index of the copy; None, and reported for the next start to repair, where it is not what was packed."""
        if self.folder is None or not (self.folder / INDEX_FILE).exists():
            return None
        try:
            return self.pack.open_index(self.folder / INDEX_FILE)
        except (OSError, Unreadable):
            _report(self.folder, INDEX_FILE)
            return None

    def find(self, path: str) -> Location | None:
        """Where an image lies, by its path: from the pack's directory as if that were the data root."""
        name = os.path.relpath(path, self.pack.path) if os.path.isabs(path) else path
        return self._index.find(name.replace(os.sep, "/"))

    def get(self, path: str) -> bytes:
        """The bytes of an image.

        Raises:
            FileNotFoundError: The pack has no image of that name.
            OSError: Neither the copy nor the pack can be read, or both are wrong.
        """
        place = self.find(path)
        if place is None:
            raise FileNotFoundError(f"{path}: the pack {self.pack.path} has no such image")
        if self.folder is not None:
            found = self._read(self.folder, True, place)
            if found is not None:
                return found
        found = self._read(self.pack.path, False, place)
        if found is None:
            raise OSError(f"{path}: {self.pack.path / self._files[place.file].name} cannot be read, or is damaged; see "
                          f"`python -m ecm_cluster.stage verify {self.pack.path}`")
        return found

    def _read(self, base: Path, copy: bool, place: Location) -> bytes | None:
        """The image from the copy or the pack; None where it is missing or wrong."""
        packed = self._files[place.file]
        try:
            fd = self._descriptors.get((copy, place.file))
            if fd is None:
                fd = self._descriptors[copy, place.file] = open_regular(base / packed.name)
            found = os.pread(fd, place.length, place.offset)
        except (OSError, Unreadable):
            return None
        if len(found) == place.length and checksum(found) == place.checksum:
            return found
        if copy:
            _report(base, packed.name)
        return None
