"""Checkpoint files into tensors: the run's own, those that it begins with, and those that it scores."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
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


@contextlib.contextmanager
def _without(name: str) -> Iterator[None]:
    value = os.environ.pop(name, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[name] = value
