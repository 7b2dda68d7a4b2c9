"""Checkpoint files into tensors: the run's own, those that it begins with, and those that it scores."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..pickles import archive, restricted

FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # asks torch for its own restricted reader, in place of any other


def read(path: str | Path, map_location: Any = "cpu") -> Any:
    """What ``torch.save`` wrote, as long as it is plain data, tensors and numpy's arrays; no code in it is run.

    Raises:
        archive.Unreadable: The file is damaged, or holds anything else.
        FileNotFoundError: It does not exist.
    """
    path = os.path.expanduser(path)
    archive.check(path)
    try:
        with _without(FORCED):
            # weights_only stands for torch's own reader; ours is the pickle module, and refuses more than that one
            return torch.load(path, map_location=map_location, pickle_module=restricted, weights_only=False)
    except (RuntimeError, *archive.DAMAGE) as error:
        if isinstance(error, RuntimeError) and "CUDA" in str(error):
            raise
        raise archive.unreadable(path, error) from error


def guard_mmcv() -> None:
    """Have mmcv read files by :func:`read` wherever it loads weights: ``load_from``, ``Pretrained``, teachers."""
    from mmcv.runner import CheckpointLoader

    def load_from_local(filename: str, map_location: Any = None) -> Any:  # mmcv prints the name without the prefix
        return read(filename, map_location)

    CheckpointLoader.register_scheme(prefixes="", loader=load_from_local, force=True)


@contextlib.contextmanager
def _without(name: str) -> Iterator[None]:
    value = os.environ.pop(name, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[name] = value
