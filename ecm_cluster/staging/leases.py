"""Locks on a node's scratch that die with their owner: leases of those who read, the lock of the one who copies.

Both are flock(2): the kernel takes them back from a process that was killed. A lease belongs to an open file, so
children that are forked (workers of a data loader) hold it too, until the last of them is gone. A program that is
executed does not inherit it, unless it is given :meth:`Lease.fileno` on purpose.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import MISTAKES, UserError
from ..base.reading import Unreadable, read_bytes


def _open(path: Path, flags: int = os.O_CREAT) -> int:
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)


def _try(handle: int, kind: int, path: Path) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError as error:
        raise UserError(f"scratch: {path.parent} lies on a file system without locks ({error.strerror}); name a folder "
                        "on the node's own disk") from None


class Lease:
    """Keeps a staged set from being collected, until it is released or the last process that holds it is gone.

    Args:
        path: The set's file for leases; its time stamp says when the set was last used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = _open(path)
        # only a collector excludes others, and only for a moment
        try:
            fcntl.flock(self._handle, fcntl.LOCK_SH)
        except OSError as error:
            os.close(self._handle)
            raise UserError(f"scratch: {path.parent} lies on a file system without locks ({error.strerror}); name a "
                            "folder on the node's own disk") from None

    def fileno(self) -> int:
        """The open file, to be passed on to a program that is executed (``pass_fds``)."""
        if self._handle is None:
            raise ValueError("the lease was released")
        return self._handle

    def touch(self) -> None:
        """Say that the set is used now."""
        with contextlib.suppress(OSError):
            os.utime(self.fileno())

    def release(self) -> None:
        """Give it back; children that were forked before still hold theirs."""
        if self._handle is not None:
            self.touch()
            os.close(self._handle)  # not LOCK_UN, which would take it from the children as well
            self._handle = None

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def is_leased(path: Path) -> bool:
    """Whether a living process holds a lease on this file."""
    # two that ask at the same moment are in each other's way, and neither is a lease
    return all(_is_held(path, fcntl.LOCK_EX, pause) for pause in (0.0, 0.001, 0.005))


def is_copying(path: Path) -> bool:
    """Whether a living process holds this copy lock."""
    return _is_held(path, fcntl.LOCK_SH)


def _is_held(path: Path, kind: int, pause: float = 0.0) -> bool:
    time.sleep(pause)
    try:
        handle = _open(path, 0)
    except OSError as error:
        # who reads from a read-only system has no lease, and nobody copies to it
        if error.errno not in (*MISTAKES, errno.EROFS):
            raise
        return False  # there is none, or something else in its place
    try:
        return not _try(handle, kind, path)
    finally:
        os.close(handle)


_RECORD = struct.Struct("<3Q")


@dataclass(frozen=True)
class Progress:
    """How far a copier is, in bytes.

    Attributes:
        done: There already, or copied and right.
        total: All that it was asked for.
        promised: What it will yet write: free space that is spoken for.
    """

    done: int = 0
    total: int = 0
    promised: int = 0


class CopyLock:
    """The right to write into a set, for one process at a time; its file says how far that one is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    @property
    def held(self) -> bool:
        return self._handle is not None

    def take(self) -> bool:
        """Take it if nobody has it."""
        handle = _open(self.path)
        if not _try(handle, fcntl.LOCK_EX, self.path):
            os.close(handle)
            return False
        self._handle = handle
        self.write(Progress())
        return True

    def write(self, progress: Progress) -> None:
        assert self._handle is not None
        with contextlib.suppress(OSError):  # a disk that is full: those who wait see an older figure
            os.pwrite(self._handle, _RECORD.pack(progress.done, progress.total, progress.promised), 0)

    def release(self) -> None:
        if self._handle is not None:
            fcntl.flock(self._handle, fcntl.LOCK_UN)  # whoever was forked meanwhile has no part in it
            os.close(self._handle)
            self._handle = None


def progress_of(path: Path) -> Progress:
    """What the copier that holds this lock last wrote; nothing where there is none."""
    try:
        return Progress(*_RECORD.unpack(read_bytes(path))) if is_copying(path) else Progress()
    except (OSError, Unreadable, struct.error):
        return Progress()
