"""Space on a node's scratch: which file system it is, how much is free, and the error where that is too little."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
IN_MEMORY = ("tmpfs", "ramfs")


class NoRoom(UserError):
    """What is needed does not fit, even without all that nobody uses."""


@dataclass(frozen=True)
class Filesystem:
    """The file system that a folder lies on.

    Attributes:
        kind: As the kernel names it, e.g. ``xfs`` or ``tmpfs``; empty where it does not say.
        free: Bytes that a user may write.
        total: Bytes.
    """

    kind: str
    free: int
    total: int

    @property
    def in_memory(self) -> bool:
        """Whether what lies there counts against the memory of the job that wrote it."""
        return self.kind in IN_MEMORY


def filesystem(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> Filesystem:
    """The file system of a folder, or of its nearest parent that exists.

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
        if inside and len(point) >= best:  # of several on one point the last hides the others
            best, kind = len(point), name
    return kind
