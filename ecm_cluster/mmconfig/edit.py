"""Edits of a config: inheritance, options, another data root.

All of them work on plain dicts, lists and tuples. Inheritance and options follow the rules of mmcv 1.x
(``Config._merge_a_into_b``, ``Config.merge_from_dict``); tests compare with both.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from ..base.errors import UserError
from . import lookup
from .options import ADD

BASE, DELETE = "_base_", "_delete_"
_DATA = re.compile(r"(\./)?data/")


class MergeError(ValueError):
    """A value cannot be set at this place; ``key`` is its dotted name."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


def merge(new: Mapping[str, Any], old: Any, *, list_keys: bool = False, where: str = "") -> Any:
    """A copy of ``old`` updated by ``new``; neither is changed.

    A dict is merged into an existing dict, unless it contains ``_delete_=True``; any other value replaces the old one.
    As in mmcv, ``_delete_`` stays in the result where there is nothing to replace.

    Args:
        old: A dict; with ``list_keys`` also a list, whose elements ``new`` names by ``'0'``, ``'1'``, …
        list_keys: Accept indices of list elements; None is then treated as an empty dict if ``new`` has keys for it.

    Raises:
        MergeError: A dict cannot be merged into the existing value, or a list has no such element.
    """
    if not isinstance(old, (dict, list) if list_keys else dict):
        there = "None" if old is None else f"a {type(old).__name__}"
        raise MergeError(where, f"is {there} in the config and has no keys such as {', '.join(map(str, new))}; set "
                                f"all of it, or add {where}.{DELETE}=True")
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
        raise MergeError(where, f"invalid index {key!r}; expected 0 to {len(items) - 1}: it is a list")
    if int(key) >= len(items):
        raise MergeError(where, f"invalid index {key}; the list has {len(items)} elements")
    return int(key)


def apply_options(cfg: dict[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``cfg`` with dotted keys set, e.g. ``{'data.train.pipeline.2.flip_ratio': 0.0}``.

    As ``mmcv.Config.merge_from_dict``; in addition, a list element may be set to any value or replaced with
    ``_delete_``, keys of None may be set, and a leading ``+`` is dropped (:mod:`ecm_cluster.keycheck.check_keys`
    interprets it).
    """
    tree: dict[str, Any] = {}
    for full, value in options.items():
        *path, last = str(full).lstrip(ADD).split(".")
        if not all((*path, last)):
            raise UserError(f"option {full}: invalid key; expected names joined by dots, e.g. optimizer.lr")
        inner = tree
        for part in path:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise UserError(f"option {full}: conflicts with an option that sets all of {part!r}; use only one")
        inner[last] = copy.deepcopy(value)
    try:
        return merge(tree, copy.deepcopy(cfg), list_keys=True)
    except MergeError as error:
        raise UserError(f"option {error.key}: {error}") from None


def map_strings(value: Any, change: Callable[[str], Any]) -> Any:
    """A copy of ``value`` in which every string ``s`` (except keys) is ``change(s)``."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {k: map_strings(v, change) for k, v in value.items()}
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(map_strings(v, change) for v in value)
    return value


def rewrite_data_root(cfg: dict[str, Any], new_root: str | os.PathLike) -> dict[str, Any]:
    """A copy of ``cfg`` in which every path below its ``data_root`` is below ``new_root`` instead.

    Raises:
        UserError: Paths that begin with ``data/`` would stay as they are and depend on the working directory; the
            message lists each in the form that ``--set`` accepts.
    """
    root, new = str(cfg.get("data_root") or "").rstrip("/"), os.fspath(new_root).rstrip("/")

    def inside(text: str) -> bool:
        return bool(root) and (text == root or text.startswith(root + "/"))

    def joined(key: str) -> bool:
        """Whether it belongs to a dataset with its own data_root, which mmdet puts in front of it."""
        block = lookup.at(cfg, re.sub(r"(\.\d+)*$", "", key).rpartition(".")[0])
        return isinstance(block, Mapping) and os.path.isabs(str(block.get("data_root") or ""))

    left = {k: t[2:] if t.startswith("./") else t for k, t in lookup.paths(cfg)
            if isinstance(t, str) and not inside(t) and _DATA.match(t) and not joined(k)}
    if left:
        reason = f"are not below its data_root {root!r}" if root else "but no data_root"
        shown = " ".join(f"--set {key}={new}{text[len('data'):]}" for key, text in left.items())
        raise UserError(f"config: {len(left)} path(s) that begin with data/ {reason}; use {shown}")
    return map_strings(cfg, lambda text: (new + text[len(root):]) or "/" if inside(text) else text)
