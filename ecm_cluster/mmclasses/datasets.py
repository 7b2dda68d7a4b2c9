"""The datasets that ``data.train`` or ``data.test`` of an mmdet config is made of, without mmdet.

Source: mmdet 2.x ``datasets/builder.py`` (``build_dataset``) and ``datasets/custom.py`` (paths). A split is a dataset,
a list of datasets, a dataset whose ``ann_file`` is a list, or a wrapper around any of these; a leaf is what is left of
it when all of this is undone: one class of dataset with one annotation file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..base.errors import UserError

WRAPPERS = ("RepeatDataset", "ClassBalancedDataset", "MultiImageMixDataset")
PATHS = ("ann_file", "img_prefix", "seg_prefix", "proposal_file")  # what data_root is put before


@dataclass(frozen=True)
class Leaf:
    """One dataset of a split.

    Attributes:
        key: Where the config has it, such as ``data.test.datasets.1``.
        cfg: Its own settings, each path one string.
        numbers: For settings that are lists in the config, the place of this leaf's value in them.
        wrappers: Types of the wrappers around it, outermost first.
    """

    key: str
    cfg: Mapping[str, Any]
    numbers: Mapping[str, int]
    wrappers: tuple[str, ...] = ()

    @property
    def type(self) -> str:
        return str(self.cfg.get("type"))

    def name(self, field: str) -> str:
        """How messages name a setting, such as ``data.test.ann_file.1``."""
        return f"{self.key}.{field}" + (f".{self.numbers[field]}" if field in self.numbers else "")

    def path(self, field: str) -> str | None:
        """The absolute path of ``ann_file``, ``img_prefix``, ``seg_prefix`` or ``proposal_file``; None: not set."""
        value = self.cfg.get(field)
        if not isinstance(value, str) or "://" in value:
            return None
        if field == "img_prefix" and not value and not self.cfg.get("data_root"):
            return None
        return os.path.abspath(os.path.join(self.cfg.get("data_root") or "", value))


def leaves(cfg: Mapping[str, Any], split: str) -> list[Leaf]:
    """The datasets of ``data.<split>``, in mmdet's order; empty where the config has no such split.

    Raises:
        UserError: It is not something that mmdet can build.
    """
    section = (cfg.get("data") or {}).get(split)
    return [] if section is None else list(_flat(section, f"data.{split}", ()))


def is_concatenated(section: Any) -> bool:
    """Whether mmdet makes a ``ConcatDataset`` of this (``data.test``), and so scores each part of it by itself."""
    return isinstance(section, (list, tuple)) or (isinstance(section, dict) and (
        section.get("type") == "ConcatDataset" or isinstance(section.get("ann_file"), (list, tuple))))


def _flat(section: Any, key: str, wrappers: tuple[str, ...]) -> Iterator[Leaf]:
    if isinstance(section, (list, tuple)):
        if not section:
            raise UserError(f"config: {key} is an empty list; expected at least one dataset")
        for number, one in enumerate(section):
            yield from _flat(one, f"{key}.{number}", wrappers)
        return
    if not isinstance(section, dict) or not isinstance(section.get("type"), (str, type)):
        raise UserError(f"config: invalid {key}: expected a dict with a 'type', or a list of such dicts")
    kind = section["type"] if isinstance(section["type"], str) else section["type"].__name__
    inner = {"ConcatDataset": "datasets", **dict.fromkeys(WRAPPERS, "dataset")}.get(kind)
    if inner is None:
        yield from _by_file(section, key, wrappers)
    elif section.get(inner) is None:
        raise UserError(f"config: {key} is a {kind} without {inner!r}; expected what it is made of")
    else:
        yield from _flat(section[inner], f"{key}.{inner}", (*wrappers, kind))


def _by_file(section: Mapping[str, Any], key: str, wrappers: tuple[str, ...]) -> Iterator[Leaf]:
    """One leaf for each annotation file of a dataset."""
    several = section.get("ann_file")
    if not isinstance(several, (list, tuple)):
        yield Leaf(key, section, {}, wrappers)
        return
    if not several:
        raise UserError(f"config: {key}.ann_file is an empty list; expected at least one annotation file")
    lists = {field: value for field in PATHS if isinstance(value := section.get(field), (list, tuple))}
    for field, value in lists.items():
        if len(value) < len(several):
            raise UserError(f"config: {key}.{field} has {len(value)} entries and {key}.ann_file has {len(several)}; "
                            "expected one for each annotation file")
    for number in range(len(several)):
        own = {name: value for name, value in section.items() if name != "separate_eval"}
        own.update({field: value[number] for field, value in lists.items()})
        yield Leaf(key, own, dict.fromkeys(lists, number), wrappers)


def pipelines(cfg: Mapping[str, Any], split: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(dotted key, settings) of each step of each pipeline in ``data.<split>``, inner steps included."""
    def steps(value: Any, key: str, inside: bool) -> Iterator[tuple[str, Mapping[str, Any]]]:
        if isinstance(value, dict):
            if inside and "type" in value:
                yield key, value
            for name, inner in value.items():
                yield from steps(inner, f"{key}.{name}", inside or name == "pipeline")
        elif isinstance(value, (list, tuple)):
            for number, inner in enumerate(value):
                yield from steps(inner, f"{key}.{number}", inside)

    return steps((cfg.get("data") or {}).get(split), f"data.{split}", False)
