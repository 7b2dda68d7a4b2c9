"""Looking things up in a config value, and the nearest of several names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

NOTHING = object()


def at(value: Any, key: str, missing: Any = None) -> Any:
    for part in key.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, (list, tuple)) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return missing
    return value


def paths(value: Any, key: str) -> Iterator[str]:
    """Dotted keys of everything in a config value, outer ones first."""
    if isinstance(value, (Mapping, list, tuple)):
        for name, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            full = f"{key}.{name}" if key else str(name)
            yield full
            yield from paths(inner, full)


def nearest(name: str, legal: Iterable[str], places: Iterable[str] = ()) -> str:
    """A question after the names that are close, else after ``places``, else after those that ``name`` is part of."""
    names = {n.lower(): n for n in legal}
    close = [names[n] for n in difflib.get_close_matches(name.lower(), names, n=3)]
    return asked(close or list(places)[:3] or [names[n] for n in names if name.lower() in n][:3])


def asked(names: list[str]) -> str:
    return f"; did you mean {', '.join(names)}?" if names else ""
