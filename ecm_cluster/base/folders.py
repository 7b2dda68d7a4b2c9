"""Paths as users give them: relative to a working directory that may be gone, below a home that may be unknown."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from .errors import UserError


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
