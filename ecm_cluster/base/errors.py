"""The one exception that is the user's to mend."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake that the user can mend; its text is one line with the field, what is legal and the remedy.

    Verbs print it without a traceback and exit with code 2 (see :mod:`ecm_cluster.console.cli`).
    """


def shown(value: object, longest: int = 80) -> str:
    """A value in a message: its repr, cut where it is long."""
    text = repr(value)
    return text if len(text) <= longest else f"{text[:longest - 3]}..."


class Failed(UserError):
    """Nothing that the user gave is wrong: the place failed, as a disk that is full does. Verbs exit with code 1."""


MISTAKES = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)


def of_place(text: str, error: OSError) -> UserError:
    """The error for a path that the user gave: a wrong path is a mistake, anything else is the place's fault."""
    return (UserError if error.errno in MISTAKES else Failed)(text)


def one_of(what: str, given: object, legal: Iterable[object], expected: str = "", more: str = "") -> UserError:
    """The error for a value outside a closed set, with the nearest legal spelling first.

    Args:
        expected: What may be given besides, in front of the list.
        more: What follows it.
    """
    names = [str(x) for x in legal]
    near = difflib.get_close_matches(str(given)[:80], names, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return UserError(f"{what}: {shown(given)} is unknown{hint}; {expected or 'legal are: '}{', '.join(names)}{more}")
