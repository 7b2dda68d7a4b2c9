"""What happens between two optimizer steps: heartbeat, agreement of the ranks, commit, end.

A signal reaches ranks at different moments and at different steps. So nobody acts on it alone: after each step the
ranks reduce their wishes (stop, save) over a small gloo group, and all of them act, or none.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from mmdet_ext.runner import persistent_buffers

from .. import checkpoints, files
from ..run import Run, write_heartbeat
from . import preemption


class AgreedStop(Exception):
    """All ranks have committed the same step and end now."""


class Boundary:
    """Called by the runner after each iteration, with all its counters advanced.

    Args:
        group: A gloo group over all ranks, for agreements only.
        every: Iterations between checkpoints; 0: none by iterations.
        minutes: Minutes between checkpoints; 0: none by time.
        keep: Checkpoints to retain besides epochs' ends.
        max_iterations: Where the training is complete.
    """

    def __init__(self, run: Run, attempt: int, rank: int, world_size: int, group: Any, *, every: int,
                 minutes: float, keep: int, max_iterations: Callable[[], int]) -> None:
        self.run, self.attempt, self.rank, self.world_size, self.group = run, attempt, rank, world_size, group
        self.every, self.seconds, self.keep, self.max_iterations = every, minutes * 60, keep, max_iterations
        self.ledger = run.ledger(attempt, f"train{rank:03d}")
        self._committed_at = self._beat_at = time.monotonic()
        self._began: tuple[float, int] | None = None
        self.committed: int | None = None

    def __call__(self, runner: Any, epoch_end: bool) -> None:
        self._heartbeat(runner)
        stop, save = self._agree(runner)
        if save or stop or epoch_end:
            self.commit(runner, epoch_end)
        if stop and runner._iter < self.max_iterations():
            raise AgreedStop

    def _agree(self, runner: Any) -> tuple[bool, bool]:
        by_time = bool(self.seconds) and time.monotonic() - self._committed_at >= self.seconds
        by_count = bool(self.every) and runner._iter % self.every == 0
        wishes = torch.tensor([preemption.asked_to_stop(), by_time or by_count], dtype=torch.int32)
        if self.world_size > 1:
            dist.all_reduce(wishes, op=dist.ReduceOp.MAX, group=self.group)
        return bool(wishes[0]), bool(wishes[1])

    def commit(self, runner: Any, epoch_end: bool) -> None:
        """Collective: every rank contributes what is its own, rank 0 writes."""
        if self.committed == runner._iter:
            return
        own = self._rank_buffers(runner)
        if self.rank == 0:
            began = time.monotonic()
            state = {**runner.state(), "rank_buffers": own}
            manifest = checkpoints.commit(
                self.run, self.attempt, lambda handle: torch.save(state, handle), iteration=runner._iter,
                epoch=runner._epoch, position=runner.position, epoch_end=epoch_end)
            self.ledger.write("commit", **checkpoints.describe(manifest), epoch_end=epoch_end,
                              seconds=round(time.monotonic() - began, 3))
            checkpoints.prune(self.run, self.keep)
        self.committed = runner._iter
        self._committed_at = time.monotonic()

    def _rank_buffers(self, runner: Any) -> list[dict[str, torch.Tensor]]:
        """Rank 0: for each rank the buffers that differ between ranks (SeesawLoss counts its own samples)."""
        if self.world_size == 1:
            return []
        mine = persistent_buffers(runner.model)
        sums: list[Any] = [None] * self.world_size
        dist.all_gather_object(sums, {k: _checksum(v) for k, v in mine.items()}, group=self.group)
        differing = [k for k in mine if any(other[k] != sums[0][k] for other in sums)]
        gathered: list[Any] | None = [None] * self.world_size if self.rank == 0 else None
        if differing:
            dist.gather_object({k: mine[k] for k in differing}, gathered, dst=0, group=self.group)
        return [g or {} for g in gathered or []]

    def _heartbeat(self, runner: Any) -> None:
        now = time.monotonic()
        if self._began is None:
            self._began = (now, runner._iter)
        if now - self._beat_at < 1.0 and runner._iter < self.max_iterations():
            return
        self._beat_at = now
        since, first = self._began
        done = runner._iter - first
        loss = runner.outputs.get("log_vars", {}).get("loss") if isinstance(runner.outputs, dict) else None
        write_heartbeat(self.run, self.attempt, self.rank, phase="training", iteration=runner._iter,
                        iterations=self.max_iterations(), epoch=runner._epoch, loss=loss,
                        seconds_per_iteration=(now - since) / done if done else None)

    def complete(self, runner: Any) -> None:
        """The end of the training: last checkpoint, then the completion mark."""
        self.commit(runner, epoch_end=True)
        if self.rank == 0:
            newest = checkpoints.accepted(self.run)[-1]
            files.write_json(self.run.complete_file, {"attempt": self.attempt, "time": round(time.time(), 3),
                                                      **checkpoints.describe(newest)})
            self.ledger.write("complete", **checkpoints.describe(newest))
            self.ledger.write("end", cause="complete", detail=f"iteration {runner._iter}", rank=0)


def _checksum(tensor: torch.Tensor) -> bytes:
    import hashlib

    return hashlib.blake2b(tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"",
                           digest_size=16).digest()
