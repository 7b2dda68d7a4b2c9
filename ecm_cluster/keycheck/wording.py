"""Messages about keys, types and values of a config: which option set them, and what to give instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..mmclasses import classes
from ..mmconfig.lookup import NOTHING, at, did_you_mean, nearest, paths
from . import sections
from .own_code import OwnCode

SHOWN = 40  # valid names in a message


class Wording:
    """The messages of a check; knows which keys were set by options.

    Args:
        base, cfg: The config without and with options.
        options: Dotted key → value; a key that begins with ``+`` is not checked.
    """

    def __init__(self, base: Mapping[str, Any], cfg: dict[str, Any], options: Mapping[str, Any], own: OwnCode,
                 release: str | None) -> None:
        self.base, self.cfg, self.own, self.release = base, cfg, own, release
        self.added = [self._outermost(str(key).lstrip("+")) for key in options if str(key).startswith("+")]
        self.given = [str(key) for key in options if not str(key).startswith("+")]

    def _outermost(self, key: str) -> str:
        """The shortest prefix of a key that does not exist in the config; the key itself if all of it exists."""
        parts = key.split(".")
        outer = (".".join(parts[:depth]) for depth in range(1, len(parts)))
        return next((part for part in outer if at(self.base, part, NOTHING) is NOTHING), key)

    def who(self, key: str) -> str:
        if self.is_added(key):
            return f"option +{key}"
        return f"option {key}" if self.is_given(key) else f"config: {key}"

    def no_key(self, key: str, name: str, what: str, valid: Mapping[str, str]) -> str:
        if name == "_delete_":
            return f"{self.who(key)}: there is nothing to delete, so {what} would be passed _delete_; remove it"
        owner = key.rpartition(".")[0]
        there = at(self.base, key, NOTHING) is not NOTHING
        changed = next((word for word in ("type", "policy") if there and f"{owner}.{word}" in self.given), None)
        hint = f"; it belongs to the previous {changed}: give --set {owner}._delete_=True to drop the other keys" \
            if changed else self.otherwise(key, name, valid)
        return f"{self.who(key)}: {what} has no {name!r}{hint}"

    def otherwise(self, key: str, name: str, valid: Iterable[str]) -> str:
        """Closest valid names, or other places of a key with this name; all names, if few; how to set it anyway."""
        near = nearest(name, valid, (place for place in self.places(name) if place != key))
        unchecked = f"--set +{key}=… sets it unchecked"
        names = sorted(n for n in valid if n != "type")
        accepted = f"accepted: {', '.join(names)}; " if 0 < len(names) <= SHOWN else ""
        return f"{near} ({accepted}{unchecked})"

    def places(self, name: str) -> list[str]:
        """The keys with this last part, in sections that mmdet reads."""
        valid = (sections.known(self.cfg, "") or ("", {}))[1]
        return [path for path, _ in paths(self.base) if path.rpartition(".")[2] == name and "." in path
                and path.partition(".")[0] in valid and not name.isdecimal()]

    def no_section(self, name: str, valid: Mapping[str, str]) -> str:
        key = next(key for key in self.given if key.partition(".")[0] == name)
        if name not in self.base:
            return f"option {key}: an mmdet config has no {name!r}{self.otherwise(key, name, valid)}"
        wanted, rest = self.base[name], key[len(name):]
        same = [path + rest for path, value in paths(self.base) if path.partition(".")[0] in valid
                and isinstance(wanted, (dict, list)) and value == wanted]
        places = same or self.places(key.rpartition(".")[2]) or self.places(name)
        return (f"option {key}: {name} is a variable of the config; setting it does not change the values that were "
                f"computed from it{did_you_mean(places[:3])} (--set +{key}=… sets it unchecked)")

    def no_type(self, where: str, name: str, section: str, replaced: classes.Arguments | None) -> str:
        other = classes.arguments_of(None, name)
        place = f" in the registry {section}, only in {other.section}" if other else ""
        near = nearest(name, [*classes.types_in(replaced.section if replaced else section), *self.own.defined])
        return (f"{self.who(where)}: mmdet has no class {name!r}{place}{near} (your own classes need custom_imports "
                "and --code)")

    def misspelt(self, name: str, valid: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """A dict or list at the top level whose name is close to that of a section that is missing."""
        near = [n for n in difflib.get_close_matches(name, valid, n=1, cutoff=0.85) if n not in self.cfg]
        if near and isinstance(self.cfg[name], (dict, list)):
            yield name, (f"config: {name} is not read by mmdet; did you mean {near[0]}? (If it is your own variable, "
                         "rename it.)")

    def is_added(self, key: str) -> bool:
        """Whether the key, or one above it, was given with a ``+``."""
        return any(key == one or key.startswith(one + ".") for one in self.added)

    def is_given(self, key: str) -> bool:
        """Whether an option gave the key, one above it, or one below it."""
        return any(key == one or key.startswith(one + ".") or one.startswith(key + ".") for one in self.given)
