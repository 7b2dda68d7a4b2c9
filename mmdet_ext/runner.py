"""mmcv's epoch- and iteration-based runners, made to stop and go on at any optimizer step.

Differences from mmcv 1.7: the position inside an epoch is part of the state, and going on starts there instead of
at the epoch's first batch; every iteration starts with generators seeded from (seed, iteration, rank); after each
iteration a *boundary* is called, where the launcher may commit a checkpoint or end the training; the state that a
checkpoint holds is complete (runner.meta, the log buffer), and loads in stock mmcv as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from mmcv.parallel import is_module_wrapper
from mmcv.runner import EpochBasedRunner, IterBasedRunner, get_host_info
from mmcv.runner.builder import RUNNERS
from mmcv.runner.checkpoint import weights_to_cpu

from .sampling import STEP, seed_all

Boundary = Callable[[Any, bool], None]


class PositionedRunner:
    """What both runners add to mmcv's; mixed in before them.

    Attributes:
        position: Iterations of the current epoch that are done.
        boundary: Called as ``boundary(runner, epoch_end)`` after each iteration, with all counters advanced;
            it ends the training by raising.
    """

    position: int = 0
    boundary: Boundary | None = None
    run_seed: int = 0
    _history: dict[str, Any] | None = None  # of a restored state, until its epoch goes on

    def prepare(self, seed: int, boundary: Boundary | None) -> None:
        """Give the runner the run's seed and what to call after each iteration."""
        self.run_seed, self.boundary = seed, boundary

    def _seed_step(self) -> None:
        seed_all(self.run_seed, STEP, self._iter, self.rank)  # type: ignore[attr-defined]

    def _at_boundary(self, epoch_end: bool) -> None:
        if self.boundary is not None:
            self.boundary(self, epoch_end)

    def state(self) -> dict[str, Any]:
        """Everything a checkpoint holds, tensors on the CPU; ``torch.load(weights_only=True)`` reads it back."""
        r: Any = self
        model = r.model.module if is_module_wrapper(r.model) else r.model
        buffer = r.log_buffer
        meta = {
            **(r.meta or {}), "epoch": r._epoch, "iter": r._iter, "position": self.position,
            "log_buffer": {"values": {k: [float(x) for x in v] for k, v in buffer.val_history.items()},
                           "counts": {k: [int(x) for x in v] for k, v in buffer.n_history.items()}},
        }
        if getattr(model, "CLASSES", None) is not None:
            meta["CLASSES"] = list(model.CLASSES)
        # not mmcv's get_state_dict: it takes buffers along that the model does not want stored, nor loads again
        state = {"meta": meta, "state_dict": weights_to_cpu(model.state_dict())}
        if isinstance(r.optimizer, dict):
            state["optimizer"] = {name: o.state_dict() for name, o in r.optimizer.items()}
        else:
            state["optimizer"] = r.optimizer.state_dict()
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state made by :meth:`state`; the counters, too."""
        r: Any = self
        model = r.model.module if is_module_wrapper(r.model) else r.model
        model.load_state_dict(state["state_dict"], strict=True)
        if isinstance(r.optimizer, dict):
            for name, optimizer in r.optimizer.items():
                optimizer.load_state_dict(state["optimizer"][name])
        else:
            r.optimizer.load_state_dict(state["optimizer"])
        meta = dict(state["meta"])
        r._epoch, r._iter, self.position = meta["epoch"], meta["iter"], meta["position"]
        history = meta.pop("log_buffer", {"values": {}, "counts": {}})
        self._history = history
        self._fill_log_buffer()
        # what a hook keeps in meta (the loss scaler of fp16, hook messages) must be there before before_run
        r.meta = {**(r.meta or {}), **meta}

    def _fill_log_buffer(self) -> None:
        """Put back what was logged before the stop: logger hooks empty the buffer whenever an epoch begins."""
        buffer: Any = self.log_buffer  # type: ignore[attr-defined]
        if self._history is not None:
            buffer.val_history.update({k: list(v) for k, v in self._history["values"].items()})
            buffer.n_history.update({k: list(v) for k, v in self._history["counts"].items()})


@RUNNERS.register_module()
class PositionedEpochBasedRunner(PositionedRunner, EpochBasedRunner):
    """mmcv's EpochBasedRunner that goes on in the middle of an epoch; training workflow only."""

    def train(self, data_loader: Any, **kwargs: Any) -> None:
        self.model.train()
        self.mode = "train"
        self.data_loader = data_loader
        self._max_iters = self._max_epochs * len(data_loader)
        start = self.position
        data_loader.batch_sampler.begin(self._epoch, start)
        self._seed_step()
        self.call_hook("before_train_epoch")
        if start:
            self._fill_log_buffer()
        self._history = None
        for i, batch in enumerate(data_loader, start):
            self._seed_step()
            self.data_batch = batch
            self._inner_iter = i
            self.call_hook("before_train_iter")
            self.run_iter(batch, train_mode=True, **kwargs)
            self.call_hook("after_train_iter")
            del self.data_batch
            self._iter += 1
            self.position = i + 1
            if self.position < len(data_loader):
                self._at_boundary(False)
        self.call_hook("after_train_epoch")
        self._epoch += 1
        self.position = 0
        self._at_boundary(True)


@RUNNERS.register_module()
class PositionedIterBasedRunner(PositionedRunner, IterBasedRunner):
    """mmcv's IterBasedRunner that knows its place in the data; training workflow only."""

    def run(self, data_loaders: list[Any], workflow: list[tuple[str, int]], max_iters: int | None = None,
            **kwargs: Any) -> None:
        assert len(data_loaders) == 1 and [mode for mode, _ in workflow] == ["train"]
        loader = self.data_loader = data_loaders[0]
        self.logger.info("Start running, host: %s, max: %d iters", get_host_info(), self._max_iters)
        self._seed_step()
        self.call_hook("before_run")
        self.call_hook("before_epoch")
        self._fill_log_buffer()
        self._history = None
        while self._iter < self._max_iters:
            self._pass_over(loader, **kwargs)
        self.call_hook("after_epoch")
        self.call_hook("after_run")

    def _pass_over(self, loader: Any, **kwargs: Any) -> None:
        self.model.train()
        self.mode = "train"
        loader.batch_sampler.begin(self._epoch, self.position)
        for i, batch in enumerate(loader, self.position):
            self._seed_step()
            self.data_batch = batch
            self._inner_iter = self._iter
            self.call_hook("before_train_iter")
            outputs = self.model.train_step(batch, self.optimizer, **kwargs)
            if not isinstance(outputs, dict):
                raise TypeError("model.train_step() must return a dict")
            if "log_vars" in outputs:
                self.log_buffer.update(outputs["log_vars"], outputs["num_samples"])
            self.outputs = outputs
            self.call_hook("after_train_iter")
            del self.data_batch
            self._iter += 1
            self.position = i + 1
            if self.position == len(loader):
                self._epoch += 1
                self.position = 0
            last = self._iter >= self._max_iters
            self._at_boundary(last)
            if last:
                return


def persistent_buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The model's persistent buffers, copied to the CPU; mmdet does not broadcast them, so ranks may differ."""
    inner: Any = model.module if is_module_wrapper(model) else model
    kept = set(inner.state_dict().keys())
    return {name: b.detach().cpu().clone() for name, b in inner.named_buffers() if name in kept}
