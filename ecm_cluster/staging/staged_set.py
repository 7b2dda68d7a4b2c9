"""One staged set: the files of a pack on a node's scratch, and what is on record of them there.

::

    sets/<digest of the pack>/
      images/…-00000.tar       a file of the pack under its own name: whole, and right when it was put there
      images/…-00000.tar.tmp   one that is being copied; what lies in it counts if its checksum says so
      manifest.json            size and time stamp of each file that is whole, written after the file
      lease                    locked, shared, by all who read; its time stamp says when the set was last used
      copy.lock                locked by the one that copies, with how far it is
      damaged/                 an empty file for each block that a reader found wrong

A file whose size or time stamp is not the manifest's has been touched, and is checked before it is used again.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from ..base import files
from ..base.reading import Unreadable
from ..pack.manifest import KEPT, TMP, Pack, PackedFile, check_name

MANIFEST, LEASE, COPY_LOCK, DAMAGED = KEPT[:4]


_SHAPE = {"pack": str, "files": {str: [int]}}


class SetFolder:
    """The folder of one set. Whoever writes the manifest or moves files holds the set's copy lock."""

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
        """[size, time stamp] of a file; None where there is none."""
        try:
            found = os.lstat(self.file(name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return [found.st_size, found.st_mtime_ns] if stat.S_ISREG(found.st_mode) else None

    def is_whole(self, file: PackedFile, manifest: dict[str, Any]) -> bool:
        """Whether a file lies there as it was put there; nothing is read."""
        stamp = self.stamp(file.name)
        return stamp is not None and stamp[0] == file.size and manifest["files"].get(file.name) == stamp

    def damaged(self) -> dict[str, set[int]]:
        """Blocks that readers found wrong, by the name of the file."""
        found: dict[str, set[int]] = {}
        with contextlib.suppress(FileNotFoundError):
            for entry in os.listdir(self.path / DAMAGED):
                name, _, block = entry.rpartition("@")
                if name and re.fullmatch("[0-9]{1,12}", block):
                    found.setdefault(unquote(name), set()).add(int(block))
        return found

    def report_damage(self, name: str, block: int) -> None:
        folder = self.path / DAMAGED
        folder.mkdir(mode=0o700, exist_ok=True)
        # made in one step, and empty: nobody can see half of it
        os.close(os.open(folder / _report(name, block), os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))

    def clear_damage(self, name: str, blocks: Iterable[int]) -> None:
        for block in blocks:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path / DAMAGED / _report(name, block))

    def allocated(self) -> int:
        """Bytes on the disk."""
        return sum(found.st_blocks * 512 for found in self._all())

    def _all(self) -> Iterator[os.stat_result]:
        for folder, _, names in os.walk(self.path):
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
                    yield os.lstat(os.path.join(folder, name))

    def partial_files(self) -> list[Path]:
        return [path for path in self.path.rglob(f"*{TMP}") if path.is_file()]

    def finish(self, file: PackedFile) -> None:
        """Make a file that was copied durable, and give it its name."""
        source, target = self.partial(file.name), self.file(file.name)
        source.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(source, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(handle).st_size > file.size:
                os.ftruncate(handle, file.size)
            files.kill_point("before-fsync", target)
            os.fsync(handle)
        finally:
            os.close(handle)
        files.kill_point("before-rename", target)
        put(source, target)

    def reopen(self, file: PackedFile) -> None:
        """Take its name from a file that is wrong in places; who has it open reads on, the right blocks stay."""
        put(self.file(file.name), self.partial(file.name))

    def clear_way(self, name: str) -> None:
        """Remove what lies in the place of a file and is none: we write through no link."""
        for path in (self.file(name), self.partial(name)):
            if path.is_symlink() or (path.exists() and not path.is_file()):
                path.unlink() if not path.is_dir() or path.is_symlink() else shutil.rmtree(path)
        parent = self.file(name).parent
        while parent != self.path:
            if parent.is_symlink() or (parent.exists() and not parent.is_dir()):
                parent.unlink()
            parent = parent.parent
        self.file(name).parent.mkdir(parents=True, exist_ok=True)


def _report(name: str, block: int) -> str:
    return f"{quote(name, safe='')}@{block}"


def put(source: Path, target: Path) -> None:
    """Rename, durably."""
    os.replace(source, target)
    files.fsync_dir(target.parent)
