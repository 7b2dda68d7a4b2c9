"""Checkpoint files into tensors: the run's own, those that it begins with, and those that it scores."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from ...pickles import archive, restricted

RELEASE = tuple(int(part) for part in torch.__version__.split(".")[:2])
FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # asks torch for its own restricted reader, in place of any other


def read(path: str | Path, map_location: Any = "cpu") -> Any:
    """What ``torch.save`` wrote, as long as it is plain data, tensors and numpy's arrays; no code in it is run.

    Raises:
        archive.InvalidCheckpoint: The file is damaged, or holds anything else.
        FileNotFoundError: It does not exist.
    """
    path = os.path.expanduser(path)
    archive.check(path)
    try:
        return _load(path, map_location)
    except (RuntimeError, *archive.DAMAGE) as error:
        if isinstance(error, RuntimeError) and "CUDA" in str(error):
            raise
        raise archive.unreadable(path, error) from error


def read_bytes(data: bytes) -> Any:
    """The same for what ``torch.save`` has written to memory; raises what reading it raises."""
    return _load(io.BytesIO(data), "cpu")


def _load(file: Any, map_location: Any) -> Any:
    serialization: Any = torch.serialization
    before = serialization.pickle
    with _without(FORCED):
        try:
            if RELEASE < (2, 0):  # 1.13 takes no notice of pickle_module
                serialization.pickle = restricted
            # weights_only stands for torch's own reader; ours is the pickle module, and refuses more than that one
            return torch.load(file, map_location=map_location, pickle_module=restricted, weights_only=False)
        finally:
            serialization.pickle = before


def guard() -> None:
    """Have nothing that loads weights run code in them: mmcv's ``load_from``, ``Pretrained`` and teachers, mmdet, hubs.

    Files that mmcv loads are read by :func:`read`. Whatever else calls ``torch.load``, or has a hub call it, and does
    not say ``weights_only`` gets data alone, as from torch 2.6 on: the defaults of the functions themselves change,
    since other modules have them under names of their own. What mmdet's ranks tell each other, lists of names, is JSON.
    """
    from mmcv.runner import CheckpointLoader
    from mmdet.core.utils import dist_utils

    def load_from_local(filename: str, map_location: Any = None) -> Any:  # mmcv prints the name without the prefix
        return read(filename, map_location)

    CheckpointLoader.register_scheme(prefixes="", loader=load_from_local, force=True)
    if RELEASE < (2, 6):
        defaults: Any = torch.load.__kwdefaults__
        defaults["weights_only"] = True
    fetch: Any = torch.hub.load_state_dict_from_url
    names = inspect.getfullargspec(fetch).args
    if "weights_only" in names:  # torch 2.1 and later, where False is the default and is passed on
        at = names.index("weights_only") - len(names)
        fetch.__defaults__ = (*fetch.__defaults__[:at], True, *fetch.__defaults__[len(fetch.__defaults__) + at + 1:])
    dist_utils.pickle = SimpleNamespace(dumps=lambda value: json.dumps(value).encode(), loads=json.loads)


@contextlib.contextmanager
def _without(name: str) -> Iterator[None]:
    value = os.environ.pop(name, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[name] = value
