"""An optimizer step of a process with several virtual ranks: accumulation in a fixed order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from mmcv.parallel import is_module_wrapper

from ..data.sampling import STEP, seed_all
from .virtual_ranks import RankBuffers, Share, mean_of_logs


class AccumulatingRunner:
    """Mixed into mmcv's runners: where a process has one virtual rank, nothing differs from theirs.

    Attributes:
        run_seed: The run's seed.
        share: The virtual ranks assigned to this process.
        rank_buffers: Their own buffers.
    """

    run_seed: int = 0
    share: Share = Share()
    rank_buffers: RankBuffers

    def _bare_model(self) -> Any:
        model: Any = self.model  # type: ignore[attr-defined]
        return model.module if is_module_wrapper(model) else model

    def _seed_step(self, i: int = 0) -> None:
        seed_all(self.run_seed, STEP, self._iter, self.share.ranks[i])  # type: ignore[attr-defined]

    def _steps(self, loader: Any) -> Iterator[list[Any]]:
        """The batches of each optimizer step from the current position on, one for each virtual rank."""
        batches = iter(loader)
        while step := list(islice(batches, self.share.count)):
            yield step

    def _forward(self, batches: list[Any], **kwargs: Any) -> None:
        """Run an iteration up to the loss whose backward pass the optimizer hook starts."""
        r: Any = self
        step = self._train_step(batches[0], **kwargs) if len(batches) == 1 else self._accumulate(batches, **kwargs)
        r.outputs = step
        if "log_vars" in step:
            r.log_buffer.update(step["log_vars"], step["num_samples"])

    def _train_step(self, batch: Any, **kwargs: Any) -> dict[str, Any]:
        r: Any = self
        outputs = r.model.train_step(batch, r.optimizer, **kwargs)
        if not isinstance(outputs, dict):
            raise TypeError("model.train_step() must return a dict")
        return outputs

    def _accumulate(self, batches: list[Any], **kwargs: Any) -> dict[str, Any]:
        """All micro-batches forward, and each except the last backward; see :meth:`_hand_over` for the last."""
        r: Any = self
        parameters = [p for p in r.model.parameters() if p.requires_grad]
        before = [p.grad for p in parameters]
        for p in parameters:
            p.grad = None
        scaler = next((h.loss_scaler for h in r.hooks if hasattr(h, "loss_scaler")), None)
        last, parts = len(batches) - 1, []
        self.rank_buffers.begin_step()
        for i, batch in enumerate(batches):
            if i:
                self._seed_step(i)
            self.rank_buffers.enter(i)
            alone = r.model.no_sync() if i < last and hasattr(r.model, "no_sync") else contextlib.nullcontext()
            with alone:
                outputs = self._train_step(batch, **kwargs)
                self.rank_buffers.leave(i)
                # DDP takes the mean over processes: this makes it the mean over virtual ranks
                loss = outputs["loss"] / len(batches)
                if i < last:
                    (scaler.scale(loss) if scaler else loss).backward()
            parts.append(outputs.get("log_vars", {}))
        self._hand_over(loss, parameters, before)
        return {**outputs, "loss": loss, "log_vars": mean_of_logs(parts)}

    def _hand_over(self, loss: torch.Tensor, parameters: Sequence[torch.nn.Parameter],
                   before: Sequence[torch.Tensor | None]) -> None:
        """Set aside the gradients so far, and add them when the optimizer hook runs the last backward pass.

        The hook may empty the gradients first (OptimizerHook) or gather them over iterations: either works, and DDP
        reduces the sum. Buffers are put back after that pass, which still needs those of its own forward pass.
        """
        so_far = [p.grad for p in parameters]
        for p, earlier in zip(parameters, before):
            p.grad = earlier

        def add(_: torch.Tensor) -> None:
            for p, grad in zip(parameters, so_far):
                if grad is not None:
                    p.grad = grad if p.grad is None else p.grad + grad
            so_far[:] = [None] * len(so_far)
            torch.autograd.Variable._execution_engine.queue_callback(self.rank_buffers.end_step)

        loss.register_hook(add)
