"""Disk space: which file system a directory is on, how much is free, and the error when that is too little."""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from .errors import Failed

FULL = (errno.ENOSPC, errno.EDQUOT)
# a resource ran short or the storage failed, which says nothing about the content of the file
SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EIO, errno.ESTALE)
IN_MEMORY = ("tmpfs", "ramfs")


class NoRoom(Failed):
    """The data does not fit, even after removing everything that is not in use."""


@dataclass(frozen=True)
class Filesystem:
    """The file system that a directory is on.

    Attributes:
        kind: The kernel's name for it, e.g. ``xfs`` or ``tmpfs``; empty if unknown.
        free: Bytes available to unprivileged users.
        total: Size in bytes.
    """

    kind: str
    free: int
    total: int

    @property
    def in_memory(self) -> bool:
        """Whether files on it count against the memory limit of the job that wrote them."""
        return self.kind in IN_MEMORY


def close_folder(folder: Path, mode: int = 0o700) -> str | None:
    """Set the mode of a directory with a predictable name; the reason why it must not be used, or None.

    Anyone could have created a directory of that name in a shared place such as /tmp, so it is opened without following
    links and its owner is checked on the open descriptor.

    Raises:
        OSError: It does not exist or cannot be opened.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EACCES):
            return "not your directory"
        raise
    try:
        found = os.fstat(handle)
        if found.st_uid != os.geteuid():
            return "not your directory"
        if found.st_mode & stat.S_IWOTH:
            return "writable by everyone, so its content cannot be trusted"
        if stat.S_IMODE(found.st_mode) != mode:
            os.fchmod(handle, mode)
        return None
    finally:
        os.close(handle)


def filesystem(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> Filesystem:
    """The file system of a directory, or of its nearest existing parent.

    Args:
        mounts: The kernel's mount table.
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
        if inside and len(point) >= best:  # a later mount on the same point hides the earlier one
            best, kind = len(point), name
    return kind
