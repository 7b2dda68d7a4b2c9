"""mmcv's epoch- and iteration-based runners, made to stop and resume at any optimizer step.

Differences from mmcv 1.7: the position inside an epoch is part of the state, and a resumed training starts there
instead of at the epoch's first batch; every micro-batch starts with generators seeded from (seed, iteration, virtual
rank); after each iteration a *boundary* is called, where the launcher may commit a checkpoint or end the training; the
state that a checkpoint holds is complete (runner.meta, the log buffer), and loads in stock mmcv as well.

An iteration is an optimizer step; with mmcv's hooks that gather gradients over several iterations it is a part of one,
and the boundary is called when the step is taken. Where a process has several virtual ranks
(:mod:`mmdet_ext.runners.virtual_ranks`), it takes as many batches, adds up their gradients, and hands the last one's
loss to the optimizer hook.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, cast

from mmcv.runner import EpochBasedRunner, IterBasedRunner, get_host_info
from mmcv.runner.builder import RUNNERS
from mmcv.runner.hooks import LoggerHook

from .accumulation import AccumulatingRunner
from .hook_calls import HookCallingRunner
from .virtual_ranks import RankBuffers, Share, gpus_of


class PositionedRunner(HookCallingRunner, AccumulatingRunner):
    """What both runners add to mmcv's; mixed in before them.

    Attributes:
        position: Iterations of the current epoch that are done.
        earlier: (ranks, iterations) of each other number of virtual ranks that did a part of the current epoch.
        boundary: Called as ``boundary(runner, epoch_end)`` after each optimizer step, with all counters advanced;
            it ends the training by raising.
    """

    position: int = 0
    earlier: Sequence[Sequence[int]] = ()
    boundary: Callable[[Any, bool], None] | None = None
    _history: dict[str, Any] | None = None  # of a restored state, until its epoch continues
    _epoch_ended = False  # since the last boundary

    def prepare(self, seed: int, boundary: Callable[[Any, bool], None] | None, share: Share | None = None,
                dataset: Any = None) -> None:
        """Give the runner, whose hooks are registered, all that it needs beside its loader.

        Args:
            seed: The run's.
            boundary: Called after each optimizer step.
            share: The virtual ranks assigned to this process.
            dataset: The training set, as hooks reach it.
        """
        r: Any = self
        self.run_seed, self.boundary = seed, boundary
        self.share = share or Share(r.world_size, r.world_size, r.rank)
        self.rank_buffers = RankBuffers(self._bare_model(), self.share.count)
        self.dataset = dataset

    @property
    def iterations_per_step(self) -> int:
        """Iterations over which an optimizer hook gathers gradients: until its step, they are in no checkpoint."""
        return max((getattr(hook, "cumulative_iters", 1) for hook in cast("Any", self).hooks), default=1)

    def _at_boundary(self, epoch_end: bool) -> None:
        r: Any = self
        self._epoch_ended |= epoch_end  # an epoch may end inside a step of several iterations
        if self.boundary is not None and (r._iter % self.iterations_per_step == 0 or r._iter >= r._max_iters):
            epoch_end, self._epoch_ended = self._epoch_ended, False
            self.boundary(self, epoch_end)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds; the tensors are the living ones.

        ``torch.load(weights_only=True)`` reads it back, unless ``meta`` or a hook holds numpy arrays or containers that
        torch's reader does not know.
        """
        r: Any = self
        model = self._bare_model()
        meta = {**(r.meta or {}), "epoch": r._epoch, "iter": r._iter, "position": self.position,
                "virtual_ranks": self.share.virtual, "former": [list(part) for part in self.earlier],
                "log_buffer": self._logged()}
        if getattr(model, "CLASSES", None) is not None:
            meta["CLASSES"] = list(cast("Any", model).CLASSES)
        # not mmcv's get_state_dict: it takes buffers along that the model does not want stored, nor loads again
        weights = model.state_dict() if self._restored is None else self._restored
        state = {"meta": meta, "state_dict": weights}
        if self._restored_optimizer is not None:
            state["optimizer"] = self._restored_optimizer
        elif isinstance(r.optimizer, dict):
            state["optimizer"] = {name: o.state_dict() for name, o in r.optimizer.items()}
        else:
            state["optimizer"] = r.optimizer.state_dict()
        state["done_by_hooks"] = self._done_by_hooks or (self.effects.state() if self.effects else {})
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state made by :meth:`state`; the counters, too.

        Raises:
            RuntimeError: It is another model's. What the state has and the model has not may belong to a hook, and
                is an error only when the hooks have begun.
        """
        r: Any = self
        self._restored, self._restored_optimizer = state["state_dict"], state["optimizer"]
        self._done_by_hooks = state.get("done_by_hooks", {})
        missing = self._load(whole=False)
        if missing and not self._done_by_hooks.get("calls"):
            raise RuntimeError(f"the checkpoint is another model's: it lacks {', '.join(missing[:5])}")
        meta = dict(state["meta"])
        r._epoch, r._iter, self.position = meta["epoch"], meta["iter"], meta["position"]
        self.earlier = meta.pop("former", [])
        own = self.position - sum(iterations for _, iterations in self.earlier)
        if meta.get("virtual_ranks", self.share.virtual) != self.share.virtual and own:
            # rescaled on request: the rest of the epoch is redistributed among the present ranks
            self.earlier = [*self.earlier, [meta["virtual_ranks"], own]]
        history = meta.pop("log_buffer", {"values": {}, "counts": {}})
        self._history = history
        self._fill_log_buffer()
        # what a hook keeps in meta (the loss scaler of fp16, hook messages) must be there before before_run
        r.meta = {**(r.meta or {}), **meta}

    def resume(self, checkpoint: str, resume_optimizer: bool = True, map_location: Any = "cpu") -> None:
        """Continue a training of mmdet's own, as mmcv does it: weights, optimizer, epoch, iteration, hooks' messages.

        The epoch in progress starts over. Where the run has a state of its own already, which is newer, nothing
        happens: hooks (EMA) ask for this at each start.

        Raises:
            ValueError: The file holds weights alone.
        """
        r: Any = self
        if self._done_by_hooks is not None:
            return
        own = r.meta or {}
        found = r.load_checkpoint(checkpoint, map_location=map_location)
        meta = found.get("meta") if isinstance(found, dict) else None
        if not isinstance(meta, dict) or not {"epoch", "iter"} <= meta.keys():
            raise ValueError(f"{checkpoint} does not say at which epoch and iteration it was made; expected the "
                             "checkpoint of a training (for weights alone use load_from)")
        r._epoch, r._iter, self.position, self.earlier = meta["epoch"], meta["iter"], 0, ()
        r._iter = r._iter * (gpus_of(meta.get("config", "")) or self.share.virtual) // self.share.virtual
        if resume_optimizer and "optimizer" in found:
            named = r.optimizer if isinstance(r.optimizer, dict) else {None: r.optimizer}
            for name, optimizer in named.items():
                optimizer.load_state_dict(found["optimizer"] if name is None else found["optimizer"][name])
        r.meta = {**own, **{key: meta[key] for key in ("hook_msgs", "fp16") if key in meta}}
        r.logger.info("resumed from %s: epoch %d, iteration %d", checkpoint, r._epoch, r._iter)

    def _logged(self) -> dict[str, Any]:
        """What later log lines may still average over: mmcv's logger hooks look back one interval at most."""
        r: Any = self
        longest = max((h.interval for h in r.hooks if isinstance(h, LoggerHook)), default=1)
        values, counts = r.log_buffer.val_history, r.log_buffer.n_history
        return {"values": {k: [float(x) for x in v[-longest:]] for k, v in values.items()},
                "counts": {k: [int(x) for x in v[-longest:]] for k, v in counts.items()}}

    def _fill_log_buffer(self) -> None:
        """Put back what was logged before the stop: logger hooks empty the buffer whenever an epoch begins."""
        buffer: Any = self.log_buffer  # type: ignore[attr-defined]
        if self._history is not None:
            buffer.val_history.update({k: list(v) for k, v in self._history["values"].items()})
            buffer.n_history.update({k: list(v) for k, v in self._history["counts"].items()})


@RUNNERS.register_module()
class PositionedEpochBasedRunner(PositionedRunner, EpochBasedRunner):
    """mmcv's EpochBasedRunner that resumes in the middle of an epoch; training workflow only."""

    def last_iteration(self, sampler: Any) -> int:
        """Where the training is complete, in iterations, with a sampler that is set to the current epoch."""
        current = len(sampler) - self.position if self.position else sampler.per_epoch
        return self._iter + current + (self._max_epochs - self._epoch - 1) * sampler.per_epoch

    def train(self, data_loader: Any, **kwargs: Any) -> None:
        self.model.train()
        self.mode = "train"
        self.data_loader = data_loader
        start = self.position
        data_loader.batch_sampler.begin(self._epoch, start, self.earlier)
        self._max_iters = self.last_iteration(data_loader.batch_sampler)
        self._note_what_hooks_do(by_epoch=True)
        self._seed_step()
        self.call_hook("before_train_epoch")
        if start:
            self._fill_log_buffer()
        self._history = self._restored = self._restored_optimizer = self._done_by_hooks = None
        for i, batches in enumerate(self._steps(data_loader), start):
            self._seed_step()
            self.data_batch = batches[0]
            self._inner_iter = i
            self.call_hook("before_train_iter")
            self._forward(batches, **kwargs)
            self.call_hook("after_train_iter")
            del self.data_batch
            self._iter += 1
            self.position = i + 1
            if self.position < len(data_loader):
                self._at_boundary(False)
        self.call_hook("after_train_epoch")
        self._epoch += 1
        self.position, self.earlier = 0, ()
        self._at_boundary(True)


@RUNNERS.register_module()
class PositionedIterBasedRunner(PositionedRunner, IterBasedRunner):
    """mmcv's IterBasedRunner that knows its place in the data; training workflow only."""

    def last_iteration(self, sampler: Any) -> int:
        """Where the training is complete, in iterations."""
        return self._max_iters

    def run(self, data_loaders: list[Any], workflow: list[tuple[str, int]], max_iters: int | None = None,
            **kwargs: Any) -> None:
        assert len(data_loaders) == 1 and [mode for mode, _ in workflow] == ["train"]
        loader = self.data_loader = data_loaders[0]
        self.logger.info("Start running, host: %s, max: %d iters", get_host_info(), self._max_iters)
        self._seed_step()
        self.call_hook("before_run")
        self.call_hook("before_epoch")
        self._note_what_hooks_do(by_epoch=False)
        self._fill_log_buffer()
        self._history = self._restored = self._restored_optimizer = self._done_by_hooks = None
        while self._iter < self._max_iters:
            self._one_pass(loader, **kwargs)
        self.call_hook("after_epoch")
        self.call_hook("after_run")

    def _one_pass(self, loader: Any, **kwargs: Any) -> None:
        self.model.train()
        self.mode = "train"
        loader.batch_sampler.begin(self._epoch, self.position, self.earlier)
        for i, batches in enumerate(self._steps(loader), self.position):
            self._seed_step()
            self.data_batch = batches[0]
            self._inner_iter = self._iter
            self.call_hook("before_train_iter")
            self._forward(batches, **kwargs)
            self.call_hook("after_train_iter")
            del self.data_batch
            self._iter += 1
            self.position = i + 1
            if self.position == len(loader):
                self._epoch += 1
                self.position, self.earlier = 0, ()
            last = self._iter >= self._max_iters
            self._at_boundary(last)
            if last:
                return
