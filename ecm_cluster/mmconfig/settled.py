"""A config as mmdet 2.x's train.py finally uses it: references replaced, deprecated keys resolved."""

from __future__ import annotations

import copy
import re
from typing import Any

from ..base.errors import UserError
from .edit import map_strings

_REFERENCE = re.compile(r"\$\{([a-zA-Z\d_.]*)\}")
# mmdet's defaults; written into the config, so that a run does not change when a default does
LOADER_DEFAULTS = {"samples_per_gpu": 2, "workers_per_gpu": 2}


def replace_references(cfg: dict[str, Any]) -> dict[str, Any]:
    """A copy in which ``${a.b}`` is replaced by ``cfg.a.b``, as by ``mmdet.utils.replace_cfg_vals``.

    A string that is a single reference becomes the value itself; within a longer string the reference becomes the
    value's text. ``model_wrapper``, if set, replaces ``model``.

    Raises:
        UserError: There is no such value, or it is a dict or list and the reference is only part of a string.
    """
    def look_up(key: str, text: str) -> Any:
        value: Any = cfg
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                raise UserError(f"config: {text!r} refers to {key!r}, which does not exist in the config")
            value = value[part]
        return value

    def replaced(text: str) -> Any:
        whole = _REFERENCE.fullmatch(text)
        if whole:
            return copy.deepcopy(look_up(whole[1], text))

        def text_of(match: re.Match) -> str:
            found = look_up(match[1], text)
            if isinstance(found, (dict, list, tuple)):
                raise UserError(f"config: {text!r} refers to {match[1]!r}, a {type(found).__name__}, which cannot be "
                                "part of a string")
            return str(found)

        return _REFERENCE.sub(text_of, text)

    new = map_strings(cfg, replaced)
    wrapper = new.pop("model_wrapper", None)
    if wrapper is not None:
        new["model"] = wrapper
    return new


def settle(cfg: dict[str, Any]) -> dict[str, Any]:
    """A copy with mmdet's deprecated keys resolved, as by ``mmdet.utils.compat_cfg``.

    Raises:
        UserError: An essential part is missing, or two spellings of a setting differ.
    """
    if "model" not in cfg or "data" not in cfg:
        raise UserError("config: model or data is missing; expected a complete mmdet 2.x detection config")
    cfg = {**cfg, "data": dict(cfg["data"])}
    if "runner" not in cfg and "total_epochs" in cfg:
        cfg["runner"] = {"type": "EpochBasedRunner", "max_epochs": cfg["total_epochs"]}
    for key in ("runner", "optimizer", "lr_config"):
        if key not in cfg:
            raise UserError(f"config: {key} is missing; expected a complete mmdet 2.x config, e.g. with a schedule of "
                            "_base_/schedules/")
    total, limit = cfg.pop("total_epochs", None), cfg["runner"].get("max_epochs")
    if total is not None and total != limit:
        raise UserError(f"config: total_epochs is {total} but runner.max_epochs is {limit}; total_epochs is mmdet's "
                        f"old name for it: give --set runner.max_epochs={total}, or remove total_epochs")
    if "imgs_per_gpu" in cfg["data"]:
        cfg["data"]["samples_per_gpu"] = cfg["data"].pop("imgs_per_gpu")
    train = cfg["data"].get("train_dataloader") or {}
    for key in ("samples_per_gpu", "persistent_workers"):
        if key in cfg["data"] and key in train:
            raise UserError(f"config: {key} is set both in data ({cfg['data'][key]}) and in data.train_dataloader "
                            f"({train[key]}); expected only one of the two, as in mmdet")
    cfg["data"].update({key: value for key, value in LOADER_DEFAULTS.items()
                        if key not in cfg["data"] and key not in train})
    return cfg


def train_loader(data: dict[str, Any]) -> dict[str, Any]:
    """The settings of the training loader, from all places where mmdet looks for them.

    ``data.workers_per_gpu`` overrides that of ``data.train_dataloader``, as in mmdet.
    """
    loader = {"samples_per_gpu": 1, "workers_per_gpu": 0, "persistent_workers": False}
    loader.update({key: data[key] for key in loader if key in data})
    loader.update(data.get("train_dataloader") or {})
    if "workers_per_gpu" in data:
        loader["workers_per_gpu"] = data["workers_per_gpu"]
    return loader
