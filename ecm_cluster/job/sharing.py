"""Who may read a run: its owner alone, or by the job's ``share`` its group, or everybody on the cluster."""

from __future__ import annotations

import os
from pathlib import Path

from ..base.errors import UserError

CLOSED = 0o700  # who can write here decides what the user's jobs execute, and env holds secrets
READABLE = {"none": 0, "group": 0o050, "all": 0o055}  # mode bits of a directory, by the job's share


def make(folder: Path) -> None:
    """Create a directory that is closed to others, regardless of the umask; its parents are created as usual.

    Raises:
        FileExistsError: Something is there already.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(CLOSED)


def open_to(folder: Path, share: str) -> None:
    """Let a run's directory be read by those whom the job shares it with, and by no others.

    Raises:
        UserError: The directory is another user's, who could read and replace what is written there.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        there = os.fstat(handle)
        if there.st_uid != os.geteuid():
            raise UserError(f"name: {folder} belongs to another user; use another --name or --runs-dir")
        # setgid is kept: it gives new files the directory's group
        os.fchmod(handle, CLOSED | READABLE[share] | there.st_mode & 0o7000)
    finally:
        os.close(handle)
    if share != "none":
        os.umask(0o077 & ~READABLE[share])  # for what this process is going to write into it


def lines(share: str) -> list[str]:
    """Shell lines that make what a job writes readable to them, and writable to nobody else."""
    return [f"umask {0o077 & ~READABLE[share]:04o}"] if share != "none" else []


def close(folder: Path) -> None:
    """Close a run's directory to others if they can write there, as under the umask 002 of earlier versions."""
    mode = folder.stat().st_mode
    if mode & 0o022:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fchmod(handle, mode & ~0o077)
        finally:
            os.close(handle)
