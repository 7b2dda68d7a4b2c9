"""Commits of small states, as a training makes them."""

from __future__ import annotations

import json
import logging
from typing import Any

import torch

from ecm_cluster.base import files
from ecm_cluster.node.training.saver import Saver
from ecm_cluster.rundir import checkpoints
from ecm_cluster.rundir.run import Run

LOG = logging.getLogger("test")


def begin(run: Run, number: int) -> None:
    run.attempts_dir.mkdir(parents=True, exist_ok=True)
    accepts = [m.file for m in checkpoints.accepted(run)]
    assert files.create_exclusive(run.attempt_file(number), json.dumps({"number": number, "accepts": accepts}))


def state_of(size: int = 1000, seed: int = 0) -> dict[str, Any]:
    """A state with everything that one may hold: views, shared and empty tensors, several types, plain values."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(size, generator=generator)
    return {"meta": {"iter": 3, "log": {"loss": [1.5, 2.5]}, "CLASSES": ["a", "b"]},
            "state_dict": {"weight": weight, "tied": weight, "row": weight[10:20], "empty": torch.empty(0),
                           "half": weight.half(), "count": torch.tensor(7), "strided": weight[: 40].view(8, 5).t()},
            "optimizer": {"state": {0: {"step": torch.tensor(3.0), "buffer": weight * 2}}, "param_groups": [{"lr": 1}]},
            "rank_buffers": [{}, {"seen": torch.arange(5)}]}


def save(saver: Saver, iteration: int, state: Any = None, wait: bool = True, **fields: Any) -> None:
    fields = {"epoch": 0, "position": iteration, "epoch_end": False, **fields}
    saver.commit(state_of(seed=iteration) if state is None else state, iteration=iteration, **fields)
    if wait:
        saver.settle(wait=True)


def events(run: Run, kind: str) -> list:
    return [e for e in run.events() if e.kind == kind]
