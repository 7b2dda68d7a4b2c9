"""The exceptions that are shown to users as one line."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
from collections.abc import Iterable, Iterator


class UserError(ValueError):
    """A mistake that the user can fix; its text is one line: the field, what is wrong, what was expected, what to do.

    Verbs print it without a traceback and exit with code 2 (see :mod:`ecm_cluster.console.cli`).
    """


def shown(value: object, longest: int = 80) -> str:
    """A value for a message: its repr, truncated if it is long."""
    return brief(repr(value), longest)


def brief(text: str, longest: int = 400) -> str:
    """An error's own text for a message: in one line, truncated if it is long."""
    text = " ".join(text.split())
    return text if len(text) <= longest else f"{text[:longest - 3]}..."


class Failed(UserError):
    """A failure that is not due to the user's input, such as a full disk. Verbs exit with code 1."""


# errno values that a wrong path causes; all others are failures of the storage
MISTAKES = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)


def of_place(text: str, error: OSError) -> UserError:
    """The error for a path that the user gave: a wrong path is a mistake, anything else is a failure of the storage."""
    return (UserError if error.errno in MISTAKES else Failed)(text)


def one_of(what: str, given: object, allowed: Iterable[object], expected: str = "expected one of: ",
           more: str = "") -> UserError:
    """The error for a value that is not one of a fixed set; suggests the closest one.

    Args:
        expected: Text in front of the list, if other values are accepted too.
        more: Text after the list.
    """
    names = [str(x) for x in allowed]
    near = difflib.get_close_matches(str(given)[:80], names, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return UserError(f"{what}: {shown(given)} is unknown{hint}; {expected}{', '.join(names)}{more}")


@contextlib.contextmanager
def naming(path: str | os.PathLike, instead_of: str | os.PathLike | None = None) -> Iterator[None]:
    """Add this file name to an ``OSError`` without one, such as that of a failed read or a full disk.

    Args:
        instead_of: A file name that means nothing to the user, such as a temporary one, to be replaced.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename) == str(instead_of):
            error.filename, error.filename2 = os.fspath(path), None
        raise
