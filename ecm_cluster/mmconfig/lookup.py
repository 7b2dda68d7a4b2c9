"""Looking up values in a config, and suggesting names that are close to a wrong one."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

NOTHING = object()


def at(value: Any, key: str, missing: Any = None) -> Any:
    """The value at a dotted key; parts of it may be indices of lists."""
    for part in key.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, (list, tuple)) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return missing
    return value


def paths(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything inside a config value, outer ones first."""
    if isinstance(value, (Mapping, list, tuple)):
        for name, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            full = f"{key}.{name}" if key else str(name)
            yield full, inner
            yield from paths(inner, full)


def nested(value: Any) -> Iterator[Any]:
    """Every dict in a config value, itself included, outer ones first."""
    return (inner for inner in itertools.chain([value], (inner for _, inner in paths(value)))
            if isinstance(inner, dict))


def nearest(name: str, valid: Iterable[str], places: Iterable[str] = ()) -> str:
    """A suggestion of close names, else of ``places``, else of names that contain ``name``; empty without any."""
    names = {n.lower(): n for n in valid}
    close = [names[n] for n in difflib.get_close_matches(name.lower(), names, n=3)]
    return did_you_mean(close or list(places)[:3] or [names[n] for n in names if name.lower() in n][:3])


def did_you_mean(names: list[str]) -> str:
    return f"; did you mean {', '.join(names)}?" if names else ""
