"""Ranges of numbers, checked even if they were set with ``+``, because this launcher computes with them, too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from numbers import Integral, Real
from typing import Any

from ..mmconfig.lookup import at, paths
from .kinds import short

_MOST = 2**31 - 1  # the range of counters in torch and mmcv
# 1e12 is beyond any value in use and excludes infinity; 1e-12 excludes zero
_COUNT, _NOT_NEGATIVE, _POSITIVE = (1, _MOST, True), (0, 1e12, False), (1e-12, 1e12, False)
# dotted key → lowest, highest, whether it is an integer; applies to the elements if the value is a list
_LIMITS: dict[str, tuple[float, float, bool]] = {
    "optimizer.lr": _NOT_NEGATIVE, "optimizer.momentum": _NOT_NEGATIVE, "optimizer.weight_decay": _NOT_NEGATIVE,
    "optimizer_config.grad_clip.max_norm": _POSITIVE, "lr_config.step": _COUNT, "lr_config.warmup_iters": _COUNT,
    "lr_config.warmup_ratio": (1e-12, 1, False), "runner.max_epochs": _COUNT, "runner.max_iters": _COUNT,
    "total_epochs": _COUNT, "auto_scale_lr.base_batch_size": _COUNT,
    **{f"data.{loader}samples_per_gpu": (1, 65536, True) for loader in ("", "train_dataloader.", "test_dataloader.")},
    **{f"data.{loader}workers_per_gpu": (0, 4096, True) for loader in ("", "train_dataloader.", "test_dataloader.")},
    "data.imgs_per_gpu": (1, 65536, True), "data.test.samples_per_gpu": (1, 65536, True),
}
# the same for arguments of classes, anywhere in the model or the data
_OF_CLASSES: dict[str, tuple[float, float, bool]] = {
    "num_classes": _COUNT, "oversample_thr": _NOT_NEGATIVE, "times": _COUNT}


def problems(cfg: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, end of a message) of each number out of its range, and of each string in place of a number."""
    for key, limits in _LIMITS.items():
        yield from _check(key, at(cfg, key), limits, numbers_only=True)
    for section in ("model", "data"):
        for key, value in paths(cfg.get(section), section):
            name = key.rpartition(".")[2]
            if name in _OF_CLASSES:
                yield from _check(key, value, _OF_CLASSES[name], numbers_only=False)


def _check(key: str, value: Any, limits: tuple[float, float, bool], numbers_only: bool) -> Iterator[tuple[str, str]]:
    low, high, whole = limits
    kinds: Any = Integral if whole else Real
    if isinstance(value, (list, tuple)):
        for number, one in enumerate(value):
            yield from _check(f"{key}.{number}", one, limits, numbers_only)
    elif value is None or not (numbers_only or isinstance(value, Real)):
        pass  # a user's own class may accept other types
    elif not (isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high):  # nan is not
        span = f"{low:g} or more" if high >= _MOST else f"{low:g} to {high:g}"
        what = f"an integer, {span}" if whole else "a positive number" if limits == _POSITIVE else f"a number, {span}"
        yield key, f"invalid value {short(value)}; expected {what}"
