"""Folders as users name them: relative to a working directory that may be gone, below a home that may be unknown."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from .errors import UserError


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
