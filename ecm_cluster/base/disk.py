"""Disk space: the file system of a directory, how much of it is free, and the error where that is not enough."""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from .errors import Failed

FULL = (errno.ENOSPC, errno.EDQUOT)
SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EIO, errno.ESTALE)  # says nothing about a file
IN_MEMORY = ("tmpfs", "ramfs")


class NoRoom(Failed):
    """What is needed does not fit, even without all sets that are not in use."""


@dataclass(frozen=True)
class Filesystem:
    """The file system of a directory.

    Attributes:
        kind: As the kernel names it, e.g. ``xfs`` or ``tmpfs``; empty where it is not known.
        free: Bytes that a user may write.
        total: Bytes.
    """

    kind: str
    free: int
    total: int

    @property
    def in_memory(self) -> bool:
        """Whether its files count against the memory of the job that wrote it."""
        return self.kind in IN_MEMORY


def close_folder(folder: Path, mode: int = 0o700) -> str | None:
    """Set the mode of a directory of this user with a predictable name; why it must not be used, or None.

    Raises:
        OSError: It does not exist, or is not accessible.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EACCES):
            return "not a directory of yours"
        raise
    try:
        found = os.fstat(handle)
        if found.st_uid != os.geteuid():
            return "not a directory of yours"
        if found.st_mode & stat.S_IWOTH:
            return "writable by everybody, who may have put anything there"
        if stat.S_IMODE(found.st_mode) != mode:
            os.fchmod(handle, mode)
        return None
    finally:
        os.close(handle)


def filesystem(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> Filesystem:
    """The file system of a directory, or of its nearest parent that exists.

    Args:
        mounts: The kernel's list of mounts.
    """
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    held = os.statvfs(there)
    return Filesystem(_kind(there, mounts), held.f_bavail * held.f_frsize, held.f_blocks * held.f_frsize)


def _kind(folder: Path, mounts: Path) -> str:
    best, kind = -1, ""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        _, point, name, *_ = line.split()
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point)
        inside = point == "/" or f"{folder}/".startswith(f"{point}/")
        if inside and len(point) >= best:  # of several at one mount point the last one hides the others
            best, kind = len(point), name
    return kind
