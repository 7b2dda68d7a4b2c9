"""Folders as users name them, and those that a process makes for itself alone.

A user's folder may be relative to a working directory that is gone, or below a home that is unknown.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from . import files
from .errors import UserError

LOCK = "lock"  # in a temporary folder: held by its process
ABANDONED_SECONDS = 86400.0  # without a write; where locks do not work, no process is at work in it for a day


def absolute(given: str | os.PathLike) -> Path:
    """The full path of what a user names, with ``~`` for a home; in a directory that was deleted it stays relative.

    Raises:
        UserError: There is no such home.
    """
    text = os.fspath(os.path.expanduser(given))
    if "\0" in text:
        raise UserError(f"{given!r} cannot be the path of a file: it holds a NUL")
    if text.startswith("~"):
        raise UserError(f"{given}: no home directory is known for {Path(text).parts[0]}; give a full path")
    with contextlib.suppress(FileNotFoundError):
        return Path(text).absolute()
    return Path(text)


def cache_folder(variable: str, name: str) -> Path:
    """The folder that an environment variable names, else ``ecm-cluster/<name>`` in the user's cache."""
    given = os.path.expanduser(os.environ.get(variable) or os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    if given.startswith("~"):
        raise UserError(f"{variable}: this user has no home directory to keep {name} in; set {variable} to a folder")
    return Path(given).absolute() / ("" if os.environ.get(variable) else f"ecm-cluster/{name}")


def nearer(path: str | os.PathLike) -> str:
    """The path from here, where that is shorter and stays below."""
    with contextlib.suppress(FileNotFoundError):  # the working directory was deleted
        relative = os.path.relpath(path)
        return os.fspath(path) if relative.startswith("..") else relative
    return os.fspath(path)


def check_working_directory() -> None:
    """Refuse what needs a working directory where there is none any more.

    Raises:
        UserError: It was deleted.
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the working directory does not exist any more; change to one that does") from None


@contextlib.contextmanager
def temporary(parent: Path, prefix: str, name: str = "") -> Iterator[Path]:
    """A folder for this process, with a lock that it holds; deleted afterwards, with the parents that it needed.

    Those of processes that were killed are deleted as well, after a day.

    Args:
        name: What its name has after ``prefix``; without it something that nobody else has.

    Raises:
        OSError: It cannot be written or locked.
    """
    made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    parent.mkdir(parents=True, exist_ok=True)
    try:
        sweep(parent, prefix)
        own = Path(os.path.join(parent, prefix + name)) if name else Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        if name:
            own.mkdir(mode=0o700)  # what others could put there would be run
        try:
            files.write_text(own / LOCK, "")
            with files.locked(own / LOCK):
                yield own
        finally:
            shutil.rmtree(own, ignore_errors=True)
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def sweep(parent: Path, prefix: str) -> None:
    """Delete the temporary folders that killed processes of this user have left behind."""
    for path in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            there = path.lstat()
            fresh = time.time() - there.st_mtime < ABANDONED_SECONDS
            if not stat.S_ISDIR(there.st_mode) or there.st_uid != os.geteuid() or fresh:
                continue
            with files.locked(path / LOCK, patience=0.0) if (path / LOCK).exists() else contextlib.nullcontext():
                shutil.rmtree(path, ignore_errors=True)
