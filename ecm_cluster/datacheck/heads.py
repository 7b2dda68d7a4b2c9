"""Heads against the number of classes of the training data, as mmdet's ``NumClassCheckHook`` compares them.

Source: mmdet 2.x ``datasets/utils.py``. What that hook does not check (RPN heads, the semantic head of HTC, VGG) is
not in the table of classes that have a number, and is not checked here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..base.errors import UserError
from ..mmclasses.classes import arguments_of
from ..mmclasses.datasets import leaves
from . import labels

HOOK = "NumClassCheckHook"


def wrong_class_numbers(cfg: Mapping[str, Any], known: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Heads and losses that are made for another number of classes than the training data has; at most one message.

    Args:
        known: The name of each label of the datasets that were read, by the keys of their annotation files.
    """
    number, whose = _of_training(cfg, known)
    if number is None or is_left_to_the_config(cfg):
        return []
    wrong = [(key, count, kind) for key, count, kind in numbers(cfg["model"], "model") if count != number]
    if not wrong:
        return []
    remedy = " ".join(f"--set {key}={number}" for key, _, _ in wrong)
    counts = " and ".join(str(count) for count in sorted({count for _, count, _ in wrong}))
    return [f"config: {wrong[0][0]} is {counts} ({wrong[0][2]}), and {whose} has {number} classes; use {remedy}"]


def is_left_to_the_config(cfg: Mapping[str, Any]) -> bool:
    """Whether the model has heads for things as well as for all classes, for which mmdet's check was disabled."""
    hooks = cfg.get("custom_hooks") or []
    types = {leaf.type for leaf in leaves(cfg, "train")}
    return "CocoPanopticDataset" in types and HOOK not in [hook.get("type") for hook in hooks]


def _of_training(cfg: Mapping[str, Any], known: Mapping[str, tuple[str, ...]]) -> tuple[int | None, str]:
    """The number of classes of the first training dataset for which it is known, and its name."""
    try:
        for leaf in leaves(cfg, "train"):
            names = known.get(leaf.name("ann_file")) or labels.configured(leaf)
            if names:
                return len(names), str(leaf.path("ann_file") or leaf.key)
    except UserError:
        pass  # the data is refused already
    return None, ""


def numbers(value: Any, key: str) -> Iterator[tuple[str, int, str]]:
    """(dotted key, number of classes, type) of each part of a model that mmdet's hook compares."""
    if isinstance(value, (list, tuple)):
        for place, inner in enumerate(value):
            yield from numbers(inner, f"{key}.{place}")
    if not isinstance(value, Mapping):
        return
    kind = value.get("type")
    compared = arguments_of("num_classes", kind) if isinstance(kind, str) else None
    if compared:
        counts = {name: value.get(name, int(default) if default else None)
                  for name, default in compared.kinds.items()}
        if all(type(count) is int for count in counts.values()):
            yield f"{key}.{next(iter(counts))}", sum(counts.values()), str(kind)
    for name, inner in value.items():
        if name not in ("train_cfg", "test_cfg"):
            yield from numbers(inner, f"{key}.{name}")
