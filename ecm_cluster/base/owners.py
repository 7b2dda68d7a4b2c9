"""Who owns a directory: the content of another user's directory is only shown, and nothing acts on it."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from pathlib import Path


def of(folder: Path, main: str) -> int:
    """The user id of a directory's owner, through links; another user's if the link or the main file is theirs.

    Raises:
        OSError: The directory does not exist or cannot be read.
    """
    uid = os.lstat(folder).st_uid
    if uid == os.geteuid():  # another user could redirect their link at any time
        uid = os.stat(folder).st_uid
    if uid == os.geteuid():
        with contextlib.suppress(FileNotFoundError):  # still being created
            uid = os.stat(folder / main).st_uid
    return uid


def name_of(uid: int) -> str:
    """``anna (uid 1000)``; only the number if there is no passwd entry."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def group_of(gid: int) -> str:
    """``group vision``; empty for the user's private group, which many systems create for each user."""
    try:
        group = grp.getgrgid(gid)
        own = pwd.getpwuid(os.geteuid())
    except KeyError:
        return "" if gid == os.geteuid() else f"group {gid}"
    return "" if (group.gr_name, gid) == (own.pw_name, own.pw_gid) else f"group {group.gr_name}"
