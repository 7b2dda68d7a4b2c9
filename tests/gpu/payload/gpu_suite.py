"""Frozen into the runs of the GPU suite (``--code``): a hook that records steps and disturbs them."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import mmcv.ops
import numpy as np
import torch
from mmcv.ops import RoIAlign
from mmcv.runner import HOOKS, Hook


class RoIAlignOnCpu(RoIAlign):
    """mmcv's RoIAlign, computed on the CPU wherever its input is.

    On a GPU its backward pass adds with atomics, in any order; on a CPU in one.
    """

    def forward(self, input: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        return super().forward(input.cpu(), rois.cpu()).to(input.device)


mmcv.ops.RoIAlignOnCpu = RoIAlignOnCpu  # where mmdet's extractors look their layers up by name


@HOOKS.register_module()
class GpuSuite(Hook):
    """Notes what each step starts from, and disturbs the training at the steps given.

    Args:
        folder: Where the notes go, a file for each attempt and rank.
        disturb: (attempt, signal, iterations done): SIGKILL ends the worker itself, any other signal goes to its
            supervisor, as a user's would.
        deterministic: Ask torch for deterministic algorithms; it warns where it has none.
        exhaust: Iterations done at which to allocate more than the device has.
        jitter: Each element of a gradient is off by about this share of itself, by another one in each process: what
            a GPU's order of summation does, for a CPU.
    """

    def __init__(self, folder: str, disturb: Any = (), deterministic: bool = False, exhaust: int = -1,
                 jitter: float = 0.0) -> None:
        self.folder, self.disturb, self.exhaust = Path(folder), [tuple(d) for d in disturb], exhaust
        self.deterministic, self.jitter = deterministic, jitter

    def before_run(self, runner: Any) -> None:
        if self.deterministic:
            torch.use_deterministic_algorithms(True, warn_only=True)
        if self.jitter:
            own = torch.Generator().manual_seed(int.from_bytes(os.urandom(7), "big"))
            for parameter in runner.model.parameters():
                parameter.register_hook(lambda g: g * (1 + self.jitter * torch.randn(g.shape, generator=own)))

    def before_train_iter(self, runner: Any) -> None:
        attempt = runner.meta["attempt"]
        with open(self.folder / f"{attempt}-{runner.rank}.notes", "a") as notes:
            notes.write(json.dumps({"attempt": attempt, "rank": runner.rank, "iteration": runner.iter,
                                    **step(runner)}) + "\n")
        if runner.iter == self.exhaust:
            torch.empty(2 * torch.cuda.get_device_properties(0).total_memory, dtype=torch.uint8, device="cuda")
        for number, name, iteration in self.disturb:
            if (number, iteration) == (attempt, runner.iter) and runner.rank == runner.world_size - 1:
                send(signal.Signals[name])


def step(runner: Any) -> dict[str, Any]:
    """What a step starts from: samples, augmented images, learning rates, generators, loss scale."""
    images = runner.data_batch["img"].data[0]
    metas = runner.data_batch["img_metas"].data[0]
    generators = [torch.get_rng_state().numpy(), np.random.get_state()[1]]
    if torch.cuda.is_available():
        generators.append(torch.cuda.get_rng_state().numpy())
    return {"samples": [meta["ori_filename"] for meta in metas], "flips": [bool(meta["flip"]) for meta in metas],
            "pixels": digest(images.numpy()), "rates": runner.current_lr(),
            "generators": [digest(state) for state in generators],
            "scale": runner.meta.get("fp16", {}).get("loss_scaler", {}).get("scale")}


def digest(array: np.ndarray) -> str:
    return hashlib.sha1(np.ascontiguousarray(array).tobytes()).hexdigest()


def send(number: signal.Signals) -> None:
    from ecm_cluster.node import signals

    if number == signal.SIGKILL:
        os.kill(os.getpid(), number)
    os.kill(os.getppid(), number)
    while not signals.asked_to_stop():  # a GPU would be through with the run before the signal arrives
        time.sleep(0.01)
