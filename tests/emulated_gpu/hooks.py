"""Hooks that tests put into a config: signals, and calls of mmdet's that no stock hook makes."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from mmcv.runner import HOOKS, Hook, epoch_based_runner, iter_based_runner
from mmdet.apis import init_random_seed, multi_gpu_test
from mmdet.core import DistEvalHook, MaxIoUAssigner, reduce_mean
from mmdet.core.utils import sync_random_seed
from mmdet.datasets import build_dataloader, build_dataset
from mmdet.models import DETECTORS, MaskRCNN

from mmdet_ext.loss.assigners import MemorySafeMaxIoUAssigner

# mmcv sleeps a second at the end of each run
epoch_based_runner.time = iter_based_runner.time = types.SimpleNamespace(sleep=lambda seconds: None)  # type: ignore


@HOOKS.register_module()
class Signalled(Hook):
    """One rank gets SIGTERM during an iteration, as if Slurm preempted the job."""

    during: int | None = None

    def before_train_iter(self, runner: Any) -> None:
        if runner.iter + 1 == self.during and runner.rank == runner.world_size - 1:
            os.kill(os.getpid(), signal.SIGTERM)


@DETECTORS.register_module()
class WithLeftover(MaskRCNN):
    """A detector with a layer that the loss of some ranks does not depend on."""

    def __init__(self, unused_on: list[int], **parts: Any) -> None:
        super().__init__(**parts)
        self.leftover, self.unused_on = torch.nn.Linear(2, 2), unused_on

    def forward_train(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        losses = super().forward_train(*args, **kwargs)
        used = dist.get_rank() not in self.unused_on
        x = torch.zeros(1, 2, device=args[0].device)
        losses["loss_leftover"] = (self.leftover(x) if used else x).sum()
        return losses


@DETECTORS.register_module()
class EpochAware(MaskRCNN):
    """A detector that SetEpochInfoHook can tell the epoch."""

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


@HOOKS.register_module()
class Collectives(Hook):
    """mmdet's collectives around a training: seeds, means, and an evaluation in its two ways."""

    def __init__(self, test: dict[str, Any]) -> None:
        self.test = test

    def before_run(self, runner: Any) -> None:
        seeds = [sync_random_seed(), init_random_seed()]
        mean = float(reduce_mean(torch.tensor(float(runner.rank), device="cuda")))
        detected = self._detect(runner)
        if runner.rank == 0:
            runner.meta["seen"] = [mean, *detected]
        parts: list[Any] = [None] * runner.world_size
        dist.all_gather_object(parts, seeds)
        assert parts == [parts[0]] * runner.world_size, parts

    def _detect(self, runner: Any) -> list[int]:
        """Images with an answer, collected through files and through the GPUs."""
        loader = self._loader()
        found = []
        for gpu_collect in (False, True):
            # every rank works in this folder: mmdet reads what the others have put there
            answers = multi_gpu_test(runner.model, loader, tmpdir=f"{runner.work_dir}/collected",
                                     gpu_collect=gpu_collect)
            found.append(len(answers or []))
        runner.model.train()
        return found

    def _loader(self) -> Any:
        dataset = build_dataset(self.test, {"test_mode": True})
        dataset.evaluate = lambda results, **options: {"images": len(results)}
        return build_dataloader(dataset, samples_per_gpu=1, workers_per_gpu=0, dist=True, shuffle=False)


@HOOKS.register_module()
class Evaluating(DistEvalHook):
    """mmdet's evaluation during a training, which needs a loader and so cannot be named in a config."""

    def __init__(self, test: dict[str, Any], **options: Any) -> None:
        super().__init__(Collectives(test)._loader(), **options)


@HOOKS.register_module()
class Crowded(Hook):
    """Assigns more boxes to more objects than the GPU has memory for."""

    def after_train_iter(self, runner: Any) -> None:
        boxes, objects = (torch.rand(n, 4, device="cuda").cumsum(1) for n in (5000, 500))
        thresholds = {"pos_iou_thr": 0.5, "neg_iou_thr": 0.5}
        found = MemorySafeMaxIoUAssigner(**thresholds).assign(boxes, objects)
        expected = MaxIoUAssigner(**thresholds).assign(boxes.cpu(), objects.cpu())
        assert found.gt_inds.is_cuda and torch.equal(found.gt_inds.cpu(), expected.gt_inds)


@HOOKS.register_module()
class Refused(Hook):
    """Tries what fails on a GPU, and notes what was said."""

    def before_run(self, runner: Any) -> None:
        host, device = torch.zeros(2), torch.zeros(2, device="cuda")
        layer = torch.nn.Linear(2, 2)
        tries: dict[str, Callable[[], Any]] = {
            "a collective on a CPU tensor": lambda: dist.all_reduce(host),
            "numpy of a CUDA tensor": device.numpy,
            "a CPU tensor among CUDA tensors": lambda: device + host,
            "weights on the CPU": lambda: layer(device),
            "a mask operator with both": lambda: torch.where(device > 0, device, host),
            "too large an allocation": lambda: torch.empty(1 << 40, dtype=torch.uint8, device="cuda"),
            "a missing GPU": lambda: torch.zeros(1, device="cuda:7")}
        said = {}
        for name, attempt in tries.items():
            try:
                attempt()
                said[name] = "nothing"
            except Exception as error:
                said[name] = f"{type(error).__name__}: {error}".split("\n")[0]
        with tempfile.NamedTemporaryFile("w", dir=runner.work_dir, suffix=".said", delete=False) as file:
            json.dump(said, file)
