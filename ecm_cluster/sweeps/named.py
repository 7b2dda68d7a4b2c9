"""Named values: ``@NAME`` is what a config has at the varied key, taken over as a whole.

``@ecm`` at ``model.roi_head.bbox_head.loss_cls`` is the whole ``loss_cls`` of ``configs/ecm/mask_rcnn_r50_1x.py``:
it replaces the whole loss of the job's own config. A path in place of a name (``@my/config.py``) is any other
config, and a sweep file can give names to values of its own.

What belongs to the data stays the job's own: the number of classes is that of the head around the value, and the class
counts are those of the job's training set.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ..base.errors import UserError, one_of
from ..mmclasses import datasets
from ..mmconfig import config, lookup, settled
from ..mmconfig.edit import DELETE
from ..mmconfig.lookup import NOTHING
from .axes import Value

CONFIGS = {"ecm": "configs/ecm/mask_rcnn_r50_1x.py", "ce": "configs/baselines/mask_rcnn_r50_1x_ce.py",
           "seesaw": "configs/baselines/mask_rcnn_r50_1x_seesaw.py", "nick": "configs/ecm/mask_rcnn_r50_1x_nick.py",
           "nick_author_bg": "configs/ecm/mask_rcnn_r50_1x_nick_author_bg.py"}
COUNTS = ("class_counts", "stats_file")  # names that a loss has for the class counts


def options(key: str, value: Value, cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The mmdet options that set a key to a named value.

    Args:
        cfg: The job's config with its options. Where the key leads through a list (the box heads of a cascade),
            every element gets the value.

    Raises:
        UserError: The name is unknown, or the value does not fit.
    """
    places = _places(cfg, key)
    if not places:
        raise UserError(f"{key}: the config has no such key that {value.text} could replace; check its spelling")
    taken = value.own if value.own is not None else _of_config(key, value.text)
    return {place: _fitted(taken, place, value.text, cfg) for place in places}


def _places(cfg: Any, key: str) -> list[str]:
    """The full keys that a key stands for: itself, or one for each element of a list that it leads through."""
    first, *parts = key.split(".")
    found = [first]
    for part in parts:
        longer = []
        for place in found:
            there = lookup.at(cfg, place)
            several = isinstance(there, (list, tuple)) and not part.isdecimal()
            longer += [f"{place}.{at}.{part}" for at in range(len(there))] if several else [f"{place}.{part}"]
        found = longer
    return [place for place in found if lookup.at(cfg, place, NOTHING) is not NOTHING]


def _of_config(key: str, text: str) -> Any:
    name = text[1:]
    path = CONFIGS.get(name)
    if path is None and not name.endswith(".py") and "/" not in name:
        raise one_of(f"{key}: named value", text, [f"@{known}" for known in CONFIGS],
                     more="; or @ and the path of a config")
    source = _read(path or name)
    places = _places(source, key)
    if not places:
        raise UserError(f"{key}: {text} is what {path or name} has at this key, and it has none; use a config that "
                        "has it")
    return lookup.at(source, places[0])


@lru_cache(maxsize=16)
def _read(path: str) -> Any:
    return settled.replace_references(config.read(path))


def _fitted(taken: Any, place: str, text: str, cfg: Mapping[str, Any]) -> Any:
    """A value for one place of the job's config, whose data it has to fit."""
    if not isinstance(taken, Mapping):
        return copy.deepcopy(taken)
    fitted, head = copy.deepcopy(dict(taken)), lookup.at(cfg, place.rpartition(".")[0])
    if "num_classes" in fitted and isinstance(head, Mapping) and "num_classes" in head:
        fitted["num_classes"] = head["num_classes"]
    if any(name in fitted for name in COUNTS):
        for name in COUNTS:
            fitted.pop(name, None)
        fitted.update(_counts(place, text, cfg))
    return {DELETE: True, **fitted}


def _counts(place: str, text: str, cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The class counts of the job's own training set, under the name that they have."""
    own = lookup.at(cfg, place)
    for name in COUNTS:
        if isinstance(own, Mapping) and own.get(name) is not None:
            return {name: own[name]}
    if cfg.get("class_counts") is not None:
        return {"class_counts": cfg["class_counts"]}
    found = list(dict.fromkeys(str(leaf.cfg["ann_file"]) for leaf in datasets.leaves(cfg, "train")
                               if isinstance(leaf.cfg.get("ann_file"), str)))
    if len(found) != 1:
        raise UserError(f"{place}: {text} needs the class counts of the training set, and data.train has "
                        f"{len(found) or 'no'} annotation files; set class_counts at the top of the config")
    return {"class_counts": found[0]}
