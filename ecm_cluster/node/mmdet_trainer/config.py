"""The run's frozen config as mmcv's, with torch, mmcv and mmdet imported and unable to run code from weights."""

from __future__ import annotations

import inspect
import json
from types import SimpleNamespace
from typing import Any

from ...base import reading
from ...keycheck import tracker_hooks
from ...mmconfig import literals
from ...rundir.run import Run
from . import imports


def load(run: Run) -> Any:
    """The frozen config, with the modules that it registers imported."""
    imports.framework()
    names_of_old_numpy()
    from mmcv import Config
    from mmcv.utils import import_modules_from_strings

    guard()
    text = reading.read_text(run.config_file)
    values = tracker_hooks.without(literals.parse(text, run.config_file))
    cfg = Config(values, f"{run.config_file}\n{text}", str(run.config_file))
    if cfg.get("custom_imports"):
        import_modules_from_strings(**cfg["custom_imports"])
    return cfg


def names_of_old_numpy() -> None:
    """``np.int`` and ``np.float``, removed in numpy 1.24: samplers of mmdet 2.x (Libra R-CNN's, by class) use them."""
    import numpy

    for name, kind in (("int", int), ("float", float)):
        vars(numpy).setdefault(name, kind)


def guard() -> None:
    """Let nothing that loads weights run code in them: mmcv's ``load_from``, ``Pretrained`` and teachers, mmdet, hubs.

    Files that mmcv loads are read by :func:`loading.read`. Any other call of ``torch.load``, direct or by a hub, that
    does not set ``weights_only`` gets data alone, as from torch 2.6 on: the defaults of the functions themselves
    change, since other modules have imported them under other names. What mmdet's ranks exchange, lists of names, is
    JSON.
    """
    import torch
    from mmcv.runner import CheckpointLoader
    from mmdet.core.utils import dist_utils

    from ..training import loading

    def load_from_local(filename: str, map_location: Any = None) -> Any:  # mmcv prints the name without the prefix
        return loading.read(filename, map_location)

    CheckpointLoader.register_scheme(prefixes="", loader=load_from_local, force=True)
    if loading.RELEASE < (2, 6):
        defaults: Any = torch.load.__kwdefaults__
        defaults["weights_only"] = True
    fetch: Any = torch.hub.load_state_dict_from_url
    names = inspect.getfullargspec(fetch).args
    if "weights_only" in names:  # torch 2.1 and later, where False is the default and is passed on
        at = names.index("weights_only") - len(names)
        fetch.__defaults__ = (*fetch.__defaults__[:at], True, *fetch.__defaults__[len(fetch.__defaults__) + at + 1:])
    dist_utils.pickle = SimpleNamespace(dumps=lambda value: json.dumps(value).encode(), loads=json.loads)
