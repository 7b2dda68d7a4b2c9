"""What is done to a config once it is read: inherit, set options, move the data root.

All of it works on plain dicts, lists and tuples. The rules of inheritance and of options are those of
mmcv 1.x (``Config._merge_a_into_b``, ``Config.merge_from_dict``), which tests compare with.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..base.errors import UserError
from . import lookup
from .options import ADD

BASE, DELETE = "_base_", "_delete_"
_DATA = re.compile(r"(\./)?data/")


class MergeError(ValueError):
    """A value that cannot be put where it should go; ``key`` is its dotted name."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


def merge(new: Mapping[str, Any], old: Any, *, list_keys: bool = False, where: str = "") -> Any:
    """``old`` with the entries of ``new`` laid over it; neither is changed.

    A dict is merged into the dict that it meets, unless it holds ``_delete_=True``; anything else replaces.
    As in mmcv, a ``_delete_`` that meets nothing stays where it is.

    Args:
        new: What to lay over.
        old: A dict; with ``list_keys`` also a list, whose elements ``new`` names by ``'0'``, ``'1'``, …
        list_keys: Take names of elements of lists; None is then an empty dict, where ``new`` has keys for it.

    Raises:
        MergeError: A dict meets something it cannot be merged into, or a list has no such element.
    """
    if not isinstance(old, (dict, list) if list_keys else dict):
        there = "None" if old is None else f"a {type(old).__name__}"
        raise MergeError(where, f"is {there} in the config, without keys such as {', '.join(map(str, new))}; give it "
                                f"as a whole, or with {where}.{DELETE}=True")
    merged: Any = old.copy()
    for key, value in new.items():
        name = f"{where}.{key}" if where else str(key)
        at = _index(key, merged, where) if isinstance(merged, list) else key
        known = isinstance(merged, list) or key in merged
        if not isinstance(value, dict):
            merged[at] = value
        elif known and not value.get(DELETE, False):
            inner = {k: v for k, v in value.items() if k != DELETE}
            there = {} if list_keys and merged[at] is None else merged[at]
            merged[at] = merge(inner, there, list_keys=list_keys, where=name)
        else:
            merged[at] = {k: v for k, v in value.items() if not (known and k == DELETE)}
    return merged


def _index(key: Any, items: list, where: str) -> int:
    if not (isinstance(key, str) and key.isdecimal()):
        raise MergeError(where, f"is a list: name an element by index, 0 to {len(items) - 1}, not {key!r}")
    if int(key) >= len(items):
        raise MergeError(where, f"has {len(items)} elements; there is none with index {key}")
    return int(key)


def apply_options(cfg: dict[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``cfg`` with dotted keys set, e.g. ``{'data.train.pipeline.2.flip_ratio': 0.0}``.

    As ``mmcv.Config.merge_from_dict``; beyond it, an element of a list may be set to what is no dict or replaced by
    ``_delete_``, None may be given keys, and ``+`` in front of a key is dropped (it is for
    :mod:`ecm_cluster.keycheck.check_keys`).
    """
    nested: dict[str, Any] = {}
    for full, value in options.items():
        *path, last = str(full).lstrip(ADD).split(".")
        if not all((*path, last)):
            raise UserError(f"option {full}: invalid key; expected names joined by dots, e.g. optimizer.lr")
        inner = nested
        for part in path:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise UserError(f"option {full}: another option sets {part!r} as a whole; give one of them")
        inner[last] = copy.deepcopy(value)
    try:
        return merge(nested, copy.deepcopy(cfg), list_keys=True)
    except MergeError as error:
        raise UserError(f"option {error.key}: {error}") from None


def nested(value: Any) -> Iterator[Any]:
    """Every dict in a config value, outer ones first."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for inner in value:
            yield from nested(inner)


def strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string inside ``value`` with its dotted key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, (dict, list, tuple)):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from strings(item, f"{key}.{name}" if key else str(name))


def map_strings(value: Any, change: Any) -> Any:
    """A copy of ``value`` in which every string ``s`` (keys apart) is ``change(s)``."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {k: map_strings(v, change) for k, v in value.items()}
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(map_strings(v, change) for v in value)
    return value


def rewrite_data_root(cfg: dict[str, Any], new_root: str | os.PathLike) -> dict[str, Any]:
    """A copy of ``cfg`` in which every path that lies in its ``data_root`` lies in ``new_root`` instead.

    Raises:
        UserError: Paths that begin with ``data/`` would stay as they are, and so depend on the working
            directory; each is named as it can be given with ``--set``.
    """
    root, new = str(cfg.get("data_root") or "").rstrip("/"), os.fspath(new_root).rstrip("/")

    def inside(text: str) -> bool:
        return bool(root) and (text == root or text.startswith(root + "/"))

    def joined(key: str) -> bool:
        """Whether it is a path of a dataset with a data_root of its own, which mmdet joins them with."""
        block = lookup.at(cfg, re.sub(r"(\.\d+)*$", "", key).rpartition(".")[0])
        return isinstance(block, Mapping) and os.path.isabs(str(block.get("data_root") or ""))

    left = {k: t[2:] if t.startswith("./") else t for k, t in strings(cfg)
            if not inside(t) and _DATA.match(t) and not joined(k)}
    if left:
        reason = f"lie outside of its data_root {root!r}" if root else "have no data_root to go by"
        shown = " ".join(f"--set {key}={new}{text[len('data'):]}" for key, text in left.items())
        raise UserError(f"config: {len(left)} path(s) with data/ in front {reason}; give: {shown}")
    return map_strings(cfg, lambda text: (new + text[len(root):]) or "/" if inside(text) else text)
