"""Locks on a node's scratch that end with their owner: leases of the readers, the lock of the copier.

Both are flock(2): the kernel releases them when a process is killed. A lease belongs to an open file, so children that
are forked (workers of a data loader) hold it too, until the last of them has ended. A program that is executed does not
inherit it, unless it is given :meth:`Lease.fileno` on purpose.
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
        raise _without_locks(path, error) from None


def _without_locks(path: Path, error: OSError) -> UserError:
    return UserError(f"scratch: {path.parent} is on a file system without locks ({error.strerror}); name a directory "
                     "on the node's own disk")


class Lease:
    """Keeps a staged set from being removed, until it is released or the last process that holds it has ended.

    The time stamp of its file says when the set was last used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = _open(path)
        # only a collector excludes others, and only for a moment
        try:
            fcntl.flock(self._handle, fcntl.LOCK_SH)
        except OSError as error:
            os.close(self._handle)
            raise _without_locks(path, error) from None

    def fileno(self) -> int:
        """The open file, to be passed to a program that is executed (``pass_fds``)."""
        if self._handle is None:
            raise ValueError("the lease was released")
        return self._handle

    def touch(self) -> None:
        """Record that the set is used now."""
        with contextlib.suppress(OSError):
            os.utime(self.fileno())

    def release(self) -> None:
        """Release it; children that were forked before still hold theirs."""
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
    # two processes that ask at the same moment block each other, and neither holds a lease
    return all(_is_held(path, fcntl.LOCK_EX, pause) for pause in (0.0, 0.001, 0.005))


def is_copying(path: Path) -> bool:
    """Whether a living process holds this copy lock."""
    return _is_held(path, fcntl.LOCK_SH)


def _is_held(path: Path, kind: int, pause: float = 0.0) -> bool:
    time.sleep(pause)
    try:
        handle = _open(path, 0)
    except OSError as error:
        # readers of a read-only file system have no lease, and nobody copies to it
        if error.errno not in (*MISTAKES, errno.EROFS):
            raise
        return False  # it does not exist, or is not a file
    try:
        return not _try(handle, kind, path)
    finally:
        os.close(handle)


_RECORD = struct.Struct("<3Q")


@dataclass(frozen=True)
class Progress:
    """The progress of a copier, in bytes.

    Attributes:
        done: There already, or copied and right.
        total: All that it was asked for.
        promised: What it will yet write: free space that is reserved.
    """

    done: int = 0
    total: int = 0
    promised: int = 0


class CopyLock:
    """The right to write into a set, for one process at a time; its file holds the progress of that process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    @property
    def held(self) -> bool:
        return self._handle is not None

    def take(self) -> bool:
        """Take it if it is free; whether it was."""
        handle = _open(self.path)
        if not _try(handle, fcntl.LOCK_EX, self.path):
            os.close(handle)
            return False
        self._handle = handle
        self.write(Progress())
        return True

    def write(self, progress: Progress) -> None:
        assert self._handle is not None
        with contextlib.suppress(OSError):  # a full disk: waiting processes see an older figure
            os.pwrite(self._handle, _RECORD.pack(progress.done, progress.total, progress.promised), 0)

    def release(self) -> None:
        if self._handle is not None:
            fcntl.flock(self._handle, fcntl.LOCK_UN)  # also where a forked child has it open
            os.close(self._handle)
            self._handle = None


def progress_of(path: Path) -> Progress:
    """What the copier that holds this lock last wrote; zeros where there is none."""
    try:
        return Progress(*_RECORD.unpack(read_bytes(path))) if is_copying(path) else Progress()
    except (OSError, Unreadable, struct.error):
        return Progress()
