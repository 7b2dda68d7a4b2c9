"""Kinds of config values as letters, and the check that a value is of a kind that its key accepts.

b(ool), i(nt), f(loat), s(tring), l(ist or tuple), d(ict), n(one), as in :mod:`ecm_cluster.mmclasses.classes`.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

from ..mmclasses.classes import REQUIRED

WORDS = {"b": "True or False", "i": "an integer", "f": "a number", "s": "a string", "l": "a list", "d": "a dict",
         "n": "None"}
# kinds accepted if no signature tells: by the kind of the value in the config, it and its usual alternatives
_BESIDE = {"b": "bin", "i": "ifbln", "f": "ifln", "s": "sln", "l": "lifn", "d": "dln"}


def kind_of(value: Any) -> str | None:
    """The letter of a value's kind; None for any other type."""
    for types, letter in ((bool, "b"), (numbers.Integral, "i"), (numbers.Real, "f"), (str, "s"), ((list, tuple), "l"),
                          (dict, "d")):
        if isinstance(value, types):
            return letter
    return "n" if value is None else None


def problem(value: Any, kinds: str, before: Any = None) -> str | None:
    """What is wrong with the value of a key, as the end of a message; None: nothing.

    Args:
        kinds: Kinds that the key accepts; empty: those that ``before`` suggests.
        before: The value that an option replaces, if there is one.
    """
    if value is None and kinds == REQUIRED:
        return "invalid value None; a value is required"
    letter, kinds = kind_of(value), kinds.replace(REQUIRED, "")
    if not kinds:
        kinds = _BESIDE.get(kind_of(before) or "", "")
        if letter == "s" and kind_of(before) == "l" and all(isinstance(item, str) for item in before):
            return None  # one string for a list of them
    if letter == "d" and "d" not in kinds and value and all(str(name).isdecimal() for name in value):
        return f"invalid index {next(iter(value))}: it is not a list in the config; expected a list"
    if letter == "l" and before and kind_of(before) == "l" and _within(before) <= set("if") and "s" in _within(value):
        return f"invalid value {short(value)}; expected numbers, as in the config"
    if _fits(value, letter, kinds):
        return None
    expected = " or ".join(WORDS[k] for k in "bifsldn" if k in kinds and not (k == "i" and "f" in kinds))
    hint = ""
    if _is_number(value):
        hint = " (remove the quotes)"
    elif letter == "s" and value.startswith(("dict(", "{")) and "d" in kinds:
        hint = " (an option cannot be a dict: set its keys one by one, e.g. KEY.type=…)"
    return f"invalid value {short(value)}; expected {expected}{hint}"


def short(value: Any) -> str:
    if isinstance(value, int) and abs(value) >= 2**64:  # Python 3.11 refuses to print very long numbers
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _fits(value: Any, letter: str | None, kinds: str) -> bool:
    """Whether a value is of one of these kinds; empty: any."""
    if not kinds or letter is None:
        return not kinds
    if letter == "f" and math.isnan(value):
        return False
    return letter in kinds or (letter == "i" and "f" in kinds) or ("b" in kinds and value in (0, 1))


def _within(value: Any) -> set[str | None]:
    """The kinds of the elements of a list, nested lists included."""
    if not isinstance(value, (list, tuple)):
        return {kind_of(value)}
    return {kind for inner in value for kind in _within(inner)}


def _is_number(value: Any) -> bool:
    """Whether a value is a string that looks like a number."""
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False
