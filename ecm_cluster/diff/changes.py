"""Differences between nested values, by dotted key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from ..base.errors import shown

MISSING: Any = object()
LONGEST = 72  # characters of a value in a line


@dataclass(frozen=True)
class Change:
    """One difference; ``MISSING`` for the side that lacks the key."""

    key: str
    a: Any
    b: Any

    def as_dict(self) -> dict[str, Any]:
        return {"key": self.key, **({} if self.a is MISSING else {"a": self.a}),
                **({} if self.b is MISSING else {"b": self.b})}

    def __str__(self) -> str:
        """``+`` before what only the second has, ``-`` before what only the first has."""
        if self.a is MISSING:
            return f"+ {self.key}: {brief(self.b)}"
        return f"- {self.key}: {brief(self.a)}" if self.b is MISSING else \
            f"{self.key}: {brief(self.a)} -> {brief(self.b)}"


def brief(value: Any) -> str:
    return shown(value, LONGEST) if not isinstance(value, str) or len(value) > LONGEST or value.split() != [value] \
        else value


def between(a: Any, b: Any, key: str = "") -> list[Change]:
    """What differs between two values. Keys of mappings are compared one by one, elements of lists where they belong
    together; everything else as a whole."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        dot = f"{key}." if key else ""
        return [change for name in dict.fromkeys([*a, *b])
                for change in between(a.get(name, MISSING), b.get(name, MISSING), f"{dot}{name}")]
    if _nested(a) and _nested(b):
        return _of_lists(a, b, key)
    same = list(a) == list(b) if _is_list(a) and _is_list(b) else type(a) is type(b) and a == b or _equal_numbers(a, b)
    return [] if same else [Change(key, a, b)]


def config_diff(config: Mapping[str, Any], base: Mapping[str, Any]) -> list[Change]:
    """How a config differs from another one, key by key; ``a`` is the base's value, ``b`` the config's."""
    return between(base, config)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _nested(value: Any) -> bool:
    """Whether it is a list of blocks, such as a pipeline."""
    return _is_list(value) and any(isinstance(each, Mapping) or _is_list(each) for each in value)


def _equal_numbers(a: Any, b: Any) -> bool:
    return isinstance(a, (int, float)) and isinstance(b, (int, float)) and not isinstance(a, bool) \
        and not isinstance(b, bool) and a == b


def _of_lists(a: Sequence[Any], b: Sequence[Any], key: str) -> list[Change]:
    if len(a) == len(b):
        return [change for i, (one, other) in enumerate(zip(a, b)) for change in between(one, other, f"{key}[{i}]")]
    changes: list[Change] = []
    for what, i, k, j, m in SequenceMatcher(None, [repr(x) for x in a], [repr(x) for x in b], False).get_opcodes():
        paired = min(k - i, m - j) if what == "replace" else 0
        for at in range(paired):
            changes += between(a[i + at], b[j + at], f"{key}[{j + at}]")
        if what != "equal":
            changes += [Change(f"{key}[{at}]", a[at], MISSING) for at in range(i + paired, k)]
            changes += [Change(f"{key}[{at}]", MISSING, b[at]) for at in range(j + paired, m)]
    return changes
