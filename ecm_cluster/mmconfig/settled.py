"""A config as mmdet 2.x's train.py has it in the end: references replaced, deprecated spellings resolved."""

from __future__ import annotations

import copy
import os
import re
from typing import Any

from ..base.errors import UserError

_REFERENCE = re.compile(r"\$\{([a-zA-Z\d_.]*)\}")
# mmdet's own; put into a config, so that a run does not change with what the program takes for one that is not set
LOADER_DEFAULTS = {"samples_per_gpu": 2, "workers_per_gpu": 2}


def replace_references(cfg: dict[str, Any]) -> dict[str, Any]:
    """A copy in which ``${a.b}`` stands for ``cfg.a.b``, as ``mmdet.utils.replace_cfg_vals`` does it.

    A string that is one reference takes the value itself; inside a longer string its text. ``model_wrapper``, if it
    is set, takes the place of ``model``.

    Raises:
        UserError: There is no such value, or a dict or list stands inside a string.
    """
    def look_up(key: str, text: str) -> Any:
        value: Any = cfg
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                raise UserError(f"config: {text!r} refers to {key!r}, which does not exist in the config")
            value = value[part]
        return value

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: replaced(item) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(replaced(item) for item in value)
        if isinstance(value, os.PathLike):  # everybody else looks for paths among strings
            return os.fspath(value)
        if not isinstance(value, str) or "${" not in value:
            return value
        whole = _REFERENCE.fullmatch(value)
        if whole:
            return copy.deepcopy(look_up(whole[1], value))

        def text_of(match: re.Match) -> str:
            found = look_up(match[1], value)
            if isinstance(found, (dict, list, tuple)):
                raise UserError(f"config: {value!r} refers to {match[1]!r}, a {type(found).__name__}, which cannot be "
                                "part of a string")
            return str(found)

        return _REFERENCE.sub(text_of, value)

    new = replaced(cfg)
    wrapper = new.pop("model_wrapper", None)
    if wrapper is not None:
        new["model"] = wrapper
    return new


def settle(cfg: dict[str, Any]) -> dict[str, Any]:
    """A copy with mmdet's deprecated spellings resolved, as ``mmdet.utils.compat_cfg`` does it.

    Raises:
        UserError: Something essential is missing, or two spellings contradict each other.
    """
    if "model" not in cfg or "data" not in cfg:
        raise UserError("config: it has no model or no data; give a whole mmdet 2.x detection config")
    cfg = {**cfg, "data": dict(cfg["data"])}
    if "runner" not in cfg and "total_epochs" in cfg:
        cfg["runner"] = {"type": "EpochBasedRunner", "max_epochs": cfg["total_epochs"]}
    for key in ("runner", "optimizer", "lr_config"):
        if key not in cfg:
            raise UserError(f"config: it has no {key!r}; give a whole mmdet 2.x config, e.g. with a schedule of "
                            "_base_/schedules/")
    total, limit = cfg.pop("total_epochs", None), cfg["runner"].get("max_epochs")
    if total is not None and total != limit:
        raise UserError(f"config: total_epochs is {total} and runner.max_epochs is {limit}; total_epochs is mmdet's "
                        f"older name for the same: --set runner.max_epochs={total}, or remove total_epochs")
    if "imgs_per_gpu" in cfg["data"]:
        cfg["data"]["samples_per_gpu"] = cfg["data"].pop("imgs_per_gpu")
    train = cfg["data"].get("train_dataloader") or {}
    for key in ("samples_per_gpu", "persistent_workers"):
        if key in cfg["data"] and key in train:
            raise UserError(f"config: {key} is set in data ({cfg['data'][key]}) and in data.train_dataloader "
                            f"({train[key]}); expected one of the two, as in mmdet")
    cfg["data"].update({key: value for key, value in LOADER_DEFAULTS.items()
                        if key not in cfg["data"] and key not in train})
    return cfg


def train_loader(data: dict[str, Any]) -> dict[str, Any]:
    """The settings of the training loader of a config's ``data``, wherever mmdet has them.

    ``data.workers_per_gpu`` beats that of ``data.train_dataloader``, as in mmdet.
    """
    loader = {"samples_per_gpu": 1, "workers_per_gpu": 0, "persistent_workers": False}
    loader.update({key: data[key] for key in loader if key in data})
    loader.update(data.get("train_dataloader") or {})
    if "workers_per_gpu" in data:
        loader["workers_per_gpu"] = data["workers_per_gpu"]
    return loader
