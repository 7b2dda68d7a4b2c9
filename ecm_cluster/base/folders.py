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
    """The absolute path of what a user gave, with ``~`` expanded; stays relative if the working directory was deleted.

    Raises:
        UserError: The home directory is unknown, or the path is not valid.
    """
    text = os.fspath(os.path.expanduser(given))
    if "\0" in text:
        raise UserError(f"invalid path {given!r}: it contains a NUL character")
    if text.startswith("~"):
        raise UserError(f"{given}: the home directory of {Path(text).parts[0]} is unknown; use an absolute path")
    with contextlib.suppress(FileNotFoundError):
        return Path(text).absolute()
    return Path(text)


def cache_folder(variable: str, name: str) -> Path:
    """The directory that an environment variable names, else ``ecm-cluster/<name>`` in the user's cache."""
    given = os.path.expanduser(os.environ.get(variable) or os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    if given.startswith("~"):
        raise UserError(f"{variable}: no home directory for the cache of {name}; set {variable} to a directory")
    return Path(given).absolute() / ("" if os.environ.get(variable) else f"ecm-cluster/{name}")


def shortest(path: str | os.PathLike) -> str:
    """The path relative to the working directory, if it is below it; otherwise as given."""
    with contextlib.suppress(FileNotFoundError):  # the working directory was deleted
        relative = os.path.relpath(path)
        return os.fspath(path) if relative.startswith("..") else relative
    return os.fspath(path)


def check_working_directory() -> None:
    """Fail early where the working directory is needed and was deleted.

    Raises:
        UserError: It was deleted.
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the working directory no longer exists; change to an existing directory") from None


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
        remove_stale(parent, prefix)
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


def remove_stale(parent: Path, prefix: str) -> None:
    """Delete the temporary folders that killed processes of this user have left behind."""
    for path in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            there = path.lstat()
            fresh = time.time() - there.st_mtime < ABANDONED_SECONDS
            if not stat.S_ISDIR(there.st_mode) or there.st_uid != os.geteuid() or fresh:
                continue
            with files.locked(path / LOCK, patience=0.0) if (path / LOCK).exists() else contextlib.nullcontext():
                shutil.rmtree(path, ignore_errors=True)
