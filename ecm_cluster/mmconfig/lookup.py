"""Looking things up in a config value, and the nearest of several names."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

NOTHING = object()


def kind_of(value: Any) -> str | None:
    """The letter of a value's kind; None for what no letter stands for."""
    for types, letter in ((bool, "b"), (numbers.Integral, "i"), (numbers.Real, "f"), (str, "s"), ((list, tuple), "l"),
                          (dict, "d")):
        if isinstance(value, types):
            return letter
    return "n" if value is None else None


def kinds_within(value: Any) -> set[str | None]:
    """The kinds of what a list holds, lists in it looked into."""
    if not isinstance(value, (list, tuple)):
        return {kind_of(value)}
    return {kind for inner in value for kind in kinds_within(inner)}


def fits(value: Any, kinds: str) -> bool:
    """Whether a value is of one of the kinds; empty: any."""
    letter = kind_of(value)
    if not kinds or letter is None:
        return not kinds or callable(value) or isinstance(value, (set, bytes))
    return letter in kinds or (letter == "i" and "f" in kinds) or ("b" in kinds and value in (0, 1))


def is_number(value: Any) -> bool:
    """Whether a string is one that a number was written as."""
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False


def at(value: Any, key: str, missing: Any = None) -> Any:
    for part in key.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, (list, tuple)) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return missing
    return value


def paths(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in a config value, outer ones first."""
    if isinstance(value, (Mapping, list, tuple)):
        for name, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            full = f"{key}.{name}" if key else str(name)
            yield full, inner
            yield from paths(inner, full)


def nearest(name: str, legal: Iterable[str], places: Iterable[str] = ()) -> str:
    """A question after the names that are close, else after ``places``, else after those that ``name`` is part of."""
    names = {n.lower(): n for n in legal}
    close = [names[n] for n in difflib.get_close_matches(name.lower(), names, n=3)]
    return asked(close or list(places)[:3] or [names[n] for n in names if name.lower() in n][:3])


def asked(names: list[str]) -> str:
    return f"; did you mean {', '.join(names)}?" if names else ""


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
