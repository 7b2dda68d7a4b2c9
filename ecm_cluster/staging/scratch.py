"""What is staged on this node: a user's directory on local scratch, whose sets are leased, and removed to make room.

::

    SCRATCH/ecm-cluster-<uid>/
      lock             held while space is counted, a set created, or a set removed: never while something is copied
      sets/<digest>/   one set for each pack, see :mod:`ecm_cluster.staging.staged_set`
      trash/           sets that are being removed: renamed first, so that one half removed is never taken for complete

A set without a lease is removed when room is needed, the least recently used one first. Nothing outside this directory
is ever removed.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from ..base import files
from ..base.disk import FULL, Filesystem, NoRoom, close_folder, filesystem
from ..base.errors import UserError, of_place
from ..base.units import size_text
from ..pack.manifest import Pack
from . import leases
from .staged_set import SetFolder, StagedSet, put

__all__ = ["Filesystem", "NoRoom", "Scratch", "StagedSet"]

SPARE = 100  # one part in so many of the disk stays free: the node may need it for itself
MARGIN = 1 << 20  # bytes for folders, manifests and locks
PATIENCE = 600.0  # seconds; on a slow disk a large set takes minutes to remove


class Scratch:
    """The user's own directory below ``base``; nothing is created there before something is staged."""

    def __init__(self, base: Path) -> None:
        self.base = Path(base).absolute()
        self.root = self.base / f"ecm-cluster-{os.geteuid()}"
        self._sets = self.root / "sets"
        self._trash = self.root / "trash"
        self._lock = self.root / "lock"

    def set_folder(self, digest: str) -> SetFolder:
        return SetFolder(self._sets / digest)

    def filesystem(self) -> Filesystem:
        """Its type, and how much of it is free."""
        return filesystem(self.root)

    def sets(self) -> list[StagedSet]:
        """What is there, the least recently used one first.

        Raises:
            UserError: Another user has created the directory.
        """
        if os.path.lexists(self.root):
            self._check_root()
        try:
            with os.scandir(self._sets) as entries:
                names = [entry.name for entry in entries
                         if re.fullmatch(r"[0-9a-f]{16}", entry.name) and entry.is_dir(follow_symlinks=False)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = []
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                found.append(self.set_folder(name).describe())
        return sorted(found, key=lambda one: one.used)

    def enter(self, pack: Pack) -> leases.Lease:
        """A lease on a pack's set, which is created if it does not exist.

        Raises:
            UserError: The directory is not writable.
            NoRoom: There is no room for the directory itself.
        """
        for again in (True, False):
            try:
                with self._locked():
                    folder = self.set_folder(pack.digest)
                    folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
                    lease = leases.Lease(folder.lease)
                    lease.touch()
                    return lease
            except OSError as error:
                if error.errno not in FULL:
                    raise self._unusable(error) from None
                if not again or not self.collect(MARGIN, keep=(pack.digest,)):
                    raise self.no_room(MARGIN) from None
        raise AssertionError

    def collect(self, bytes_wanted: int | None = None, keep: Collection[str] = ()) -> list[StagedSet]:
        """Remove sets that are not in use, the least recently used one first; returns those that were removed.

        Args:
            bytes_wanted: Stop when so many are freed; None: remove all of them.
            keep: Digests of packs whose sets stay.
        """
        if not self._lock.exists():
            return []
        removed, freed = [], 0
        with self._locked():
            self._empty_trash()
            for found in self.sets():
                if bytes_wanted is not None and freed >= bytes_wanted:
                    break
                if found.digest not in keep and self._remove(found):
                    removed.append(found)
                    freed += found.bytes
        return removed

    def make_room(self, needed: int, keep: str, copier: leases.CopyLock, done: leases.Progress) -> None:
        """Reserve ``needed`` bytes for the process that copies into set ``keep``, removing other sets if necessary.

        Its lock ``copier`` records the reservation.

        Raises:
            NoRoom: There is not enough room.
        """
        with self._locked():
            while needed and self._free(keep) < needed + MARGIN:
                if not self._empty_trash() and not any(self._remove(one) for one in self.sets() if one.digest != keep):
                    raise self.no_room(needed, keep)
            copier.write(leases.Progress(done.done, done.total, needed))

    def _free(self, besides: str = "") -> int:
        """Bytes that may be taken: free, not reserved by another copier, and beyond the spare ones."""
        try:
            others = [name for name in os.listdir(self._sets) if name != besides]
        except FileNotFoundError:
            others = []
        promised = sum(leases.progress_of(self.set_folder(name).copy_lock).promised for name in others)
        held = self.filesystem()
        return held.free - held.total // SPARE - promised

    def no_room(self, needed: int, keep: str = "") -> NoRoom:
        """The error that says what is needed, and what holds it."""
        held = [one for one in self.sets() if one.leased and one.digest != keep]
        free = self._free(keep)
        used = f"sets in use ({len(held)}) hold {size_text(sum(one.bytes for one in held))}"
        return NoRoom(f"scratch: {self.base} ({self.filesystem().kind}) has no room: {size_text(needed)} needed, "
                      f"{size_text(max(0, free))} free, {used if held else 'no other set is in use'}, the rest is not "
                      "ours; free some there, or name another directory as scratch")

    def _remove(self, found: StagedSet) -> bool:
        """Remove a set, unless it is in use; under the lock, so nobody can start to use it."""
        if found.leased or leases.is_leased(self.set_folder(found.digest).lease):
            return False
        away = self._trash / f"{found.digest}-{secrets.token_hex(4)}"
        files.kill_point("before-removal", found.folder)
        put(found.folder, away)
        self._empty(away)
        return True

    def _empty_trash(self) -> bool:
        """Remove what an interrupted removal left behind; whether anything was removed."""
        try:
            left = list(self._trash.iterdir())
        except FileNotFoundError:
            return False
        for path in left:
            self._empty(path)
        return not all(os.path.lexists(path) for path in left)

    def _empty(self, path: Path) -> None:
        for entry in sorted(path.iterdir()) if path.is_dir() and not path.is_symlink() else []:
            files.kill_point("removing", entry)
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink()
        shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._make_root()
        try:
            with files.locked(self._lock, PATIENCE):
                yield
        except BlockingIOError:
            raise UserError(f"scratch: {self._lock} has been locked by another process for {PATIENCE:.0f} s; find it "
                            "with `fuser`, and end it") from None

    def _make_root(self) -> None:
        """Create the directory, private to this user; one that another user put there is refused.

        Its name is predictable, and others may write to its parent. What is in it can only be this user's.
        """
        try:
            self.base.mkdir(exist_ok=True)
            with contextlib.suppress(FileExistsError):
                self.root.mkdir(mode=0o700)
            self._check_root()
            for folder in (self._sets, self._trash):  # early: when they are needed, the disk may be full
                folder.mkdir(mode=0o700, exist_ok=True)
            os.close(os.open(self._lock, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        except OSError as error:
            if error.errno in FULL:
                raise
            raise self._unusable(error) from None

    def _check_root(self) -> None:
        problem = close_folder(self.root)
        if problem is not None:
            raise UserError(f"scratch: {self.root} is {problem}; remove it, or name another directory as scratch")

    def _unusable(self, error: OSError) -> UserError:
        inside = str(error.filename or "").startswith(f"{self.root}{os.sep}")
        where = f"{error.filename}: {error.strerror}" if inside else error.strerror
        return of_place(f"scratch: could not write to {self.base} ({where}); name a directory on the node's own disk "
                        "that exists and is writable", error)
