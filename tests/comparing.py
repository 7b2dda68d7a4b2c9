"""Two trainings compared bit by bit, without what clocks and attempts decide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ecm_cluster.node.training import loading
from ecm_cluster.rundir import training_log
from ecm_cluster.rundir.run import Run


def read(file: Any, **options: Any) -> Any:
    """A checkpoint by torch's own restricted reader, which before torch 2 refuses numbers."""
    return torch.load(file, map_location="cpu", weights_only=not torch.__version__.startswith("1."), **options)


def bits(value: Any) -> Any:
    """A state as something that compares bit by bit."""
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), tuple(value.shape), value.numpy().tobytes())
    if isinstance(value, (np.ndarray, np.generic)):
        return (str(value.dtype), value.shape, value.tobytes())
    if isinstance(value, dict):
        return {k: bits(v) for k, v in value.items()}
    if isinstance(value, float):
        return value.hex()  # NaN is not equal to itself
    return [bits(v) for v in value] if isinstance(value, (list, tuple)) else value


def state_in(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint, without what the clock and the attempts decide."""
    state = loading.read(checkpoint)  # hooks may keep arrays, which torch's own reader refuses
    for key in ("attempt", "starts_after"):
        state["meta"].pop(key)
    for part in state["meta"]["log_buffer"].values():
        for key in ("time", "data_time"):
            part.pop(key, None)
    for key in ("epoch", "position"):
        assert key in state["meta"]
    return state


def log_lines(run: Run) -> list[dict[str, Any]]:
    """What all attempts of a run have logged, as one series."""
    return [{k: v for k, v in line.items() if k not in ("time", "data_time", "timestamp", "attempt")}
            for line in training_log.fold(run)]
