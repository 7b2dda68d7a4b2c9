"""Whose a folder is: what another user's folder names is data to be shown, and nothing acts on it."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from pathlib import Path


def of(folder: Path, main: str) -> int:
    """The user id of a folder's owner, wherever links lead; another user's, where the link or its main file is theirs.

    Raises:
        OSError: There is no such folder, or it cannot be looked into.
    """
    uid = os.lstat(folder).st_uid
    if uid == os.geteuid():  # a link of another user may lead elsewhere in a moment
        uid = os.stat(folder).st_uid
    if uid == os.geteuid():
        with contextlib.suppress(FileNotFoundError):  # being made
            uid = os.stat(folder / main).st_uid
    return uid


def name_of(uid: int) -> str:
    """``anna (uid 1000)``; the number alone where there is no passwd entry."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def group_of(gid: int) -> str:
    """``group vision``; empty for a group that is this user's alone, as many systems give to each user."""
    try:
        group = grp.getgrgid(gid)
        own = pwd.getpwuid(os.geteuid())
    except KeyError:
        return "" if gid == os.geteuid() else f"group {gid}"
    return "" if (group.gr_name, gid) == (own.pw_name, own.pw_gid) else f"group {group.gr_name}"
