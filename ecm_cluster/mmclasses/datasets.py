"""The datasets in ``data.train`` or ``data.test`` of an mmdet config, without mmdet.

Source: mmdet 2.x ``datasets/builder.py`` (``build_dataset``) and ``datasets/custom.py`` (paths). A split is a dataset,
a list of datasets, a dataset whose ``ann_file`` is a list, or a wrapper around any of these. A leaf is a single
dataset in it: one type with one annotation file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..base.errors import UserError

WRAPPERS = ("RepeatDataset", "ClassBalancedDataset", "MultiImageMixDataset")
PATHS = ("ann_file", "img_prefix", "seg_prefix", "proposal_file")  # relative to data_root


@dataclass(frozen=True)
class Leaf:
    """A single dataset of a split.

    Attributes:
        key: Its dotted key, such as ``data.test.datasets.1``.
        cfg: Its own settings, where each path is one string.
        numbers: For settings that are lists in the config, the index of this leaf's value.
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
        """The dotted key of a setting for messages, such as ``data.test.ann_file.1``."""
        return f"{self.key}.{field}" + (f".{self.numbers[field]}" if field in self.numbers else "")

    def path(self, field: str) -> str | None:
        """The absolute path in one of :data:`PATHS`; None if it is not set."""
        value = self.cfg.get(field)
        if not isinstance(value, str) or "://" in value:
            return None
        if field == "img_prefix" and not value and not self.cfg.get("data_root"):
            return None
        return os.path.abspath(os.path.join(self.cfg.get("data_root") or "", value))


def leaves(cfg: Mapping[str, Any], split: str) -> list[Leaf]:
    """The datasets of ``data.<split>`` in mmdet's order; empty if the config has no such split.

    Raises:
        UserError: mmdet cannot build it.
    """
    section = (cfg.get("data") or {}).get(split)
    return [] if section is None else list(_flat(section, f"data.{split}", ()))


def is_concatenated(section: Any) -> bool:
    """Whether mmdet builds a ``ConcatDataset`` from this (``data.test``), and thus scores each part separately."""
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
        raise UserError(f"config: {key} is a {kind} without {inner!r}; expected the dataset(s) that it wraps")
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
    """(dotted key, settings) of each transform of each pipeline in ``data.<split>``, nested ones included."""
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
