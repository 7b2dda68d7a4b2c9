"""What is staged on this node: a user's folder on local scratch, whose sets are leased, and collected when in the way.

::

    SCRATCH/ecm-cluster-<uid>/
      lock             held while space is counted, a set begun, or a set removed: never while something is copied
      sets/<digest>/   one set for each pack, see :mod:`ecm_cluster.staging.staged_set`
      trash/           sets on their way out: renamed first, so that what is half removed is never taken for whole

A set that nobody has leased may go when room is needed, the one used longest ago first. Nothing outside this folder is
ever removed.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..base import files
from ..base.disk import FULL, Filesystem, NoRoom, close_folder, filesystem
from ..base.errors import UserError, of_place
from ..base.units import size_text
from ..pack.manifest import Pack
from . import leases
from .staged_set import SetFolder, put

__all__ = ["Filesystem", "NoRoom", "Scratch", "StagedSet", "report_damage"]

SPARE = 100  # one part in so many of the disk stays free: it may be the node's own
MARGIN = 1 << 20  # bytes for folders, manifests and locks
PATIENCE = 600.0  # seconds; removing a large set takes some


@dataclass(frozen=True)
class StagedSet:
    """What is there of one pack.

    Attributes:
        digest: The pack's.
        folder: Holds the files under their names in the pack.
        bytes: On the disk.
        files: Names of those that are whole.
        partial: Whether a copy of some file was begun and is not done.
        used: When it was last used, in seconds since the epoch.
        leased: Whether a living process uses it.
        copying: Whether a living process copies into it.
        pack: Folder that it was copied from; empty where that is not on record yet.
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


class Scratch:
    """The user's own folder below ``base``; nothing is made there before something is staged."""

    def __init__(self, base: Path) -> None:
        self.base = Path(base).absolute()
        self.root = self.base / f"ecm-cluster-{os.geteuid()}"
        self._sets = self.root / "sets"
        self._trash = self.root / "trash"
        self._lock = self.root / "lock"

    def set_folder(self, digest: str) -> SetFolder:
        return SetFolder(self._sets / digest)

    def filesystem(self) -> Filesystem:
        """What kind it is, and how much of it is free."""
        return filesystem(self.root)

    def sets(self) -> list[StagedSet]:
        """What is there, the one used longest ago first.

        Raises:
            UserError: Somebody else has put something in the place of this user's folder.
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
                found.append(self._describe(name))
        return sorted(found, key=lambda one: one.used)

    def _describe(self, digest: str) -> StagedSet:
        folder = self.set_folder(digest)
        stamped = folder.lease if folder.lease.exists() else folder.path
        manifest = folder.manifest()
        whole = tuple(name for name, stamp in manifest["files"].items() if folder.stamp(name) == stamp)
        return StagedSet(digest, folder.path, folder.allocated(), whole, bool(folder.partial_files()),
                         stamped.stat().st_mtime, leases.is_leased(folder.lease), leases.is_copying(folder.copy_lock),
                         manifest["pack"])

    def enter(self, pack: Pack) -> leases.Lease:
        """Begin to use a pack's set, which may be empty yet.

        Raises:
            UserError: Nothing can be written there.
            NoRoom: Not even the folder.
        """
        for again in (True, False):
            try:
                with self._locked():
                    return self._enter(pack.digest)
            except OSError as error:
                if error.errno not in FULL:
                    raise self._unusable(error) from None
                if not again or not self.collect(MARGIN, keep=(pack.digest,)):
                    raise self.no_room(MARGIN) from None
        raise AssertionError

    def _enter(self, digest: str) -> leases.Lease:
        folder = self.set_folder(digest)
        folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lease = leases.Lease(folder.lease)
        lease.touch()
        return lease

    def collect(self, bytes_wanted: int | None = None, keep: Collection[str] = ()) -> list[StagedSet]:
        """Remove sets that nobody uses, the one used longest ago first.

        Args:
            bytes_wanted: Stop when so many are free again; None: remove all of them.
            keep: Digests of packs whose sets stay.

        Returns:
            What was removed.
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
        """Set ``needed`` bytes aside for the one that copies into set ``keep``, removing others if it must.

        Args:
            copier: Its lock, on which the promise is put on record.
            done: How far it is.

        Raises:
            NoRoom: There are not so many.
        """
        with self._locked():
            while needed and self._free(keep) < needed + MARGIN:
                if not self._empty_trash() and not any(self._remove(one) for one in self.sets() if one.digest != keep):
                    raise self.no_room(needed, keep)
            copier.write(leases.Progress(done.done, done.total, needed))

    def _free(self, besides: str = "") -> int:
        """Bytes that may be taken: free, not promised to another one that copies, and beyond what stays for others."""
        try:
            others = [name for name in os.listdir(self._sets) if name != besides]
        except FileNotFoundError:
            others = []
        promised = sum(leases.progress_of(self.set_folder(name).copy_lock).promised for name in others)
        held = self.filesystem()
        return held.free - held.total // SPARE - promised

    def no_room(self, needed: int, keep: str = "") -> NoRoom:
        """The error that says so."""
        held = [one for one in self.sets() if one.leased and one.digest != keep]
        free = self._free(keep)
        used = f"sets in use ({len(held)}) hold {size_text(sum(one.bytes for one in held))}"
        return NoRoom(f"scratch: {self.base} ({self.filesystem().kind}) has no room: {size_text(needed)} needed, "
                      f"{size_text(max(0, free))} free, {used if held else 'no other set is in use'}, the rest is not "
                      "ours; free some there, or name another folder as scratch")

    def _remove(self, found: StagedSet) -> bool:
        """Remove a set, unless somebody uses it; under the lock, so nobody can begin to."""
        if found.leased or leases.is_leased(self.set_folder(found.digest).lease):
            return False
        away = self._trash / f"{found.digest}-{secrets.token_hex(4)}"
        files.kill_point("before-removal", found.folder)
        put(found.folder, away)
        self._empty(away)
        return True

    def _empty_trash(self) -> bool:
        """Remove what a removal that was cut short left behind; whether anything went."""
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
            raise UserError(f"scratch: {self._lock} has been locked by another process for {PATIENCE:.0f} s; see "
                            "which one it is with `fuser`, and end it") from None

    def _make_root(self) -> None:
        """Make the folder, for this user's eyes alone; one that somebody else put there is not used.

        Its name can be foretold, and others may write where it lies. What is in it can only be this user's.
        """
        try:
            self.base.mkdir(exist_ok=True)
            with contextlib.suppress(FileExistsError):
                self.root.mkdir(mode=0o700)
            self._check_root()
            for folder in (self._sets, self._trash):  # before it is needed: then the disk may be full
                folder.mkdir(mode=0o700, exist_ok=True)
            os.close(os.open(self._lock, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        except OSError as error:
            if error.errno in FULL:
                raise
            raise self._unusable(error) from None

    def _check_root(self) -> None:
        problem = close_folder(self.root)
        if problem is not None:
            raise UserError(f"scratch: {self.root} is {problem}; remove it, or name another folder as scratch")

    def _unusable(self, error: OSError) -> UserError:
        inside = str(error.filename or "").startswith(f"{self.root}{os.sep}")
        where = f"{error.filename}: {error.strerror}" if inside else error.strerror
        return of_place(f"scratch: nothing can be written to {self.base} ({where}); name a folder on the "
                        "node's own disk that exists and is yours to write", error)


def report_damage(folder: Path, file_name: str, block: int) -> None:
    """Put on record that a block of a staged file is wrong, for the next start to repair; from any process.

    Args:
        folder: The set's, as :class:`ecm_cluster.staging.copying.Staged` has it.
        file_name: In the pack.
        block: Number of the block of :data:`ecm_cluster.pack.manifest.BLOCK` bytes.

    Raises:
        OSError: It cannot be written.
    """
    SetFolder(Path(folder)).report_damage(file_name, block)
