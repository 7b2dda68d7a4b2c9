"""A trainer in plain PyTorch, as a user would write one beside mmdet's: a small network, noise drawn in each step."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ecm_cluster.node.training.trainable import Trainable, TrainerContext


class Tiny(Trainable):
    iteration = iterations = epoch = position = 0
    loss: Any = None

    def __init__(self, context: TrainerContext) -> None:
        self.context, settings = context, context.config
        self.per_epoch, self.iterations = settings["per_epoch"], settings["epochs"] * settings["per_epoch"]
        self.seconds = settings.get("seconds", 0.0)
        torch.manual_seed(context.seed)
        self.model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 1))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.losses: list[float] = []

    def state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "losses": self.losses,
                "iteration": self.iteration}

    def restore(self, state: dict[str, Any], source: str) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.losses, self.iteration = state["losses"], state["iteration"]
        self.epoch, self.position = divmod(self.iteration, self.per_epoch)

    def train(self, after_step: Callable[[bool], None]) -> None:
        while self.iteration < self.iterations:
            self.step()
            time.sleep(self.seconds)
            self.iteration += 1
            self.context.log(self.iteration, loss=self.loss, lr=self.optimizer.param_groups[0]["lr"])
            self.epoch, self.position = divmod(self.iteration, self.per_epoch)
            after_step(self.position == 0)
        loaded = sorted({name.partition(".")[0] for name in sys.modules})
        Path(self.context.run.logs_dir, f"modules-{self.context.place.rank}.json").write_text(json.dumps(loaded))

    def step(self) -> None:
        place = self.context.place
        torch.manual_seed((self.context.seed * 1000 + self.iteration) * place.world_size + place.rank)
        samples = torch.randn(4, 8)
        loss = (self.model(samples) - samples.sum(1, keepdim=True)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        for parameter in self.model.parameters():
            if self.context.group is not None:
                dist.all_reduce(parameter.grad, group=self.context.group)
        self.optimizer.step()
        self.loss = self.mean(loss.detach())
        self.losses.append(self.loss)

    def mean(self, loss: torch.Tensor) -> float:
        if self.context.group is not None:
            dist.all_reduce(loss, group=self.context.group)
        return float(loss) / self.context.place.world_size


def make(context: TrainerContext) -> Tiny:
    assert os.getcwd() == context.run.spec.cwd
    return Tiny(context)
