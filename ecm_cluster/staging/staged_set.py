"""One staged set: the files of a pack on a node's scratch, and what is recorded about them there.

::

    sets/<digest of the pack>/
      images/…-00000.tar       a file of the pack under its own name: complete, and right when it was put there
      images/…-00000.tar.tmp   one that is being copied; a block in it counts if its checksum is right
      manifest.json            size and time stamp of each file that is complete, written after the file
      lease                    locked, shared, by all readers; its time stamp says when the set was last used
      copy.lock                locked by the process that copies, with its progress

A file is the unit of what is recorded, a block that of what is copied: a file whose size or time stamp is not the
manifest's was touched, or reported as damaged. It is read before it is used again; wrong blocks are copied again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base import files
from ..base.reading import Unreadable
from ..pack.manifest import KEPT, TMP, Pack, PackedFile, check_name
from . import leases

MANIFEST, LEASE, COPY_LOCK = KEPT[:3]

_SHAPE = {"pack": str, "files": {str: [int]}}


@dataclass(frozen=True)
class StagedSet:
    """What is staged of one pack.

    Attributes:
        digest: The pack's.
        folder: Holds the files under their names in the pack.
        bytes: On the disk.
        files: Names of those that are complete.
        partial: Whether some file is copied in part.
        used: When it was last used, in seconds since the epoch.
        leased: Whether a living process uses it.
        copying: Whether a living process copies into it.
        pack: Directory that it was copied from; empty where that is not recorded yet.
    """

    digest: str
    folder: Path
    bytes: int
    files: tuple[str, ...]
    partial: bool
    used: float
    leased: bool
    copying: bool
    pack: str


class SetFolder:
    """The directory of one set. Only the holder of its copy lock writes the manifest or renames files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lease = path / LEASE
        self.copy_lock = path / COPY_LOCK
        self._manifest = path / MANIFEST

    def file(self, name: str) -> Path:
        return self.path / name

    def partial(self, name: str) -> Path:
        return self.path / f"{name}{TMP}"

    def manifest(self) -> dict[str, Any]:
        """``pack``: where it came from; ``files``: name -> [size, time stamp in nanoseconds]. Empty if unreadable."""
        try:
            found = files.read_json(self._manifest, _SHAPE)
            for name in found["files"]:
                check_name(name, self.path, "files")
            return found
        except (OSError, Unreadable):
            return {"pack": "", "files": {}}

    def write_manifest(self, pack: Pack, whole: dict[str, list[int]]) -> None:
        files.kill_point("before-manifest", self._manifest)
        files.write_json(self._manifest, {"pack": str(pack.path), "files": whole})

    def stamp(self, name: str) -> list[int] | None:
        """[size, time stamp] of a file; None where it does not exist."""
        try:
            found = os.lstat(self.file(name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return [found.st_size, found.st_mtime_ns] if stat.S_ISREG(found.st_mode) else None

    def is_whole(self, file: PackedFile, manifest: dict[str, Any]) -> bool:
        """Whether a file is as it was put there, by its size and time stamp; nothing is read."""
        stamp = self.stamp(file.name)
        return stamp is not None and stamp[0] == file.size and manifest["files"].get(file.name) == stamp

    def report_damage(self, name: str) -> None:
        """Have the next start check a file, and repair it: its time stamp is changed. From any process.

        Raises:
            OSError: The file does not exist, or its time stamp could not be changed.
        """
        os.utime(self.file(name), follow_symlinks=False)

    def describe(self) -> StagedSet:
        """
        Raises:
            FileNotFoundError: It was removed meanwhile.
        """
        stamped = self.lease if self.lease.exists() else self.path
        manifest = self.manifest()
        whole = tuple(name for name, stamp in manifest["files"].items() if self.stamp(name) == stamp)
        size, partial = 0, False
        for folder, _, names in os.walk(self.path):
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
                    size += os.lstat(os.path.join(folder, name)).st_blocks * 512
                    partial = partial or name.endswith(TMP)
        return StagedSet(self.path.name, self.path, size, whole, partial, stamped.stat().st_mtime,
                         leases.is_leased(self.lease), leases.is_copying(self.copy_lock), manifest["pack"])

    def finish(self, file: PackedFile) -> None:
        """Make a file that was copied durable, and give it its name."""
        source, target = self.partial(file.name), self.file(file.name)
        source.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(source, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(handle).st_size > file.size:
                os.ftruncate(handle, file.size)
            files.kill_point("before-fsync", target)
            # before the name and the manifest: what those vouch for is trusted by size and time stamp, and not read
            os.fsync(handle)
        finally:
            os.close(handle)
        files.kill_point("before-rename", target)
        put(source, target)

    def reopen(self, file: PackedFile) -> None:
        """Take its name from a file that is wrong in places; who has it open reads on, its right blocks are kept."""
        put(self.file(file.name), self.partial(file.name))

    def clear_way(self, name: str) -> None:
        """Remove anything that is not a file where one belongs: nothing is written through a link."""
        for path in (self.file(name), self.partial(name)):
            if path.is_symlink() or (path.exists() and not path.is_file()):
                path.unlink() if not path.is_dir() or path.is_symlink() else shutil.rmtree(path)
        parent = self.file(name).parent
        while parent != self.path:
            if parent.is_symlink() or (parent.exists() and not parent.is_dir()):
                parent.unlink()
            parent = parent.parent
        self.file(name).parent.mkdir(parents=True, exist_ok=True)


def put(source: Path, target: Path) -> None:
    """Rename, durably."""
    os.replace(source, target)
    files.fsync_dir(target.parent)
