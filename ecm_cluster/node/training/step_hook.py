"""What happens between two optimizer steps: heartbeat, agreement of the ranks, commit, end.

A signal reaches ranks at different moments and at different steps. So no rank acts on it alone: after each step the
ranks reduce their wishes (stop, save) over a small gloo group, and all of them act, or none.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist

from ...base import files
from ...rundir import checkpoints
from ...rundir.run import Run
from .. import heartbeat, signals
from ..world import RankInfo
from . import divergence
from .saver import Saver
from .trainable import Trainable

BEAT_SECONDS = 1.0  # between heartbeats while steps are shorter than that


class AgreedStop(Exception):
    """All ranks end now, at the same step; the text says whether its checkpoint was committed (on rank 0)."""


class StepHook:
    """Called by the trainer after each optimizer step, with all its counters advanced.

    A commit blocks the training while the state is copied; a separate process writes it. The training waits for that
    process where the checkpoint is relied on: at a stop, at the end of an epoch, and at completion.

    Args:
        group: A gloo group over all ranks, for agreements only; None where there is one rank.
        every: Iterations between checkpoints; 0: none by iterations.
        also: Further iterations at which to commit, or at the end of the step that holds one; the same in all ranks.
        minutes: Minutes between checkpoints; 0: none by time.
        keep: Checkpoints to retain besides epochs' ends.
        on_nan: ``warn``, or ``stop``: what follows where the loss is no longer finite.

    Attributes:
        started_at: The iteration that the attempt started from.
    """

    def __init__(self, run: Run, attempt: int, trainer: Trainable, place: RankInfo, group: Any,
                 logger: logging.Logger, *,
                 every: int, minutes: float, keep: int, also: Iterable[int] = (), on_nan: str = "warn") -> None:
        self.run, self.attempt, self.trainer, self.group, self.logger = run, attempt, trainer, group, logger
        self.every, self.seconds, self.keep = every, minutes * 60, keep
        self.also = sorted(also)
        self.on_nan, self.watch = on_nan, divergence.LossWatch()
        self.started_at = 0
        self.ledger = run.ledger(attempt, f"train{place.rank:03d}", patient=True)
        self._committed_at = self._beat_at = time.monotonic()
        self._began: tuple[float, int] | None = None
        self._step_began: float | None = None
        self.slowest_step = 0.0
        self.committed: int | None = None
        # started before the training touches much memory; the other ranks write nothing
        self.saver = Saver(run, attempt, keep, self.ledger, logger) if place.rank == 0 else None

    def take_over(self, state: dict[str, Any]) -> None:
        """Take what :meth:`commit` added to a trainer's state out of it, before the trainer restores it."""
        self.watch.resume((state.get("meta") or {}).pop(divergence.SINCE, None))

    def __call__(self, epoch_end: bool) -> None:
        trainer = self.trainer
        self._time_step()
        self._heartbeat()
        if self.saver is not None:
            self.saver.settle(wait=False)
        stop, save, diverged = self._agree()
        if diverged:
            self._diverged()
        elif self.watch.recovered(trainer):
            self._warn(f"the loss was not finite for a while, and is again since iteration {trainer.iteration}")
        if save or stop or epoch_end:
            self.commit(epoch_end, wait=stop or epoch_end)
        self._step_began = time.monotonic()
        if stop and trainer.iteration < trainer.iterations:
            failure = self.saver.failure if self.saver is not None else None
            raise AgreedStop(f"its checkpoint could not be written ({failure}); {self.saver.stands()}"
                             if failure and self.saver is not None else "the checkpoint is committed")

    def _time_step(self) -> None:
        # from hook to hook; so the first step of an attempt, which also warms up, is not among them, nor is one during
        # which the process was stopped and continued
        if self._step_began is not None and not signals.continued():
            self.slowest_step = max(self.slowest_step, time.monotonic() - self._step_began)

    def _agree(self) -> tuple[bool, bool, bool]:
        by_time = bool(self.seconds) and time.monotonic() - self._committed_at >= self.seconds
        # since the last step, which may have taken several iterations
        now, before = self.trainer.iteration, self.trainer.iteration - self.trainer.iterations_per_step
        by_count = bool(self.every) and now // self.every > before // self.every
        asked = any(before < iteration <= now for iteration in self.also)
        wishes = torch.tensor([signals.asked_to_stop(), by_time or by_count or asked,
                               self.watch.look(self.trainer)], dtype=torch.int32)
        if self.group is not None:
            dist.all_reduce(wishes, op=dist.ReduceOp.MAX, group=self.group)
        return bool(wishes[0]), bool(wishes[1]), bool(wishes[2])

    def _diverged(self) -> None:
        """On all ranks: report since when the loss is not finite; end, or keep the newest checkpoint from before.

        Raises:
            divergence.Diverged: The job asks to stop then.
        """
        text = self.watch.alarm(self.trainer)
        if self.saver is not None:
            self.saver.settle(wait=True)
        assert self.watch.since is not None
        sound = divergence.newest_before(self.run, self.watch.since, self.trainer.iterations_per_step)
        text += "; no checkpoint is from before" if sound is None else \
            f"; {sound.file} is from before, and `resume {self.run.name} --from {sound.iteration}` goes back to it"
        self._warn(text)
        if self.on_nan == "stop":
            raise divergence.Diverged(text)
        if self.saver is not None and sound is not None:
            self.saver.spare = sound.iteration

    def _warn(self, text: str) -> None:
        if self.saver is not None:
            self.logger.warning("%s", text)
            self.ledger.write("warning", about="loss", iteration=self.trainer.iteration, text=text)

    def commit(self, epoch_end: bool, wait: bool) -> None:
        """Collective: every rank contributes what is its own, rank 0 has it written.

        Args:
            wait: Until it is written, or has failed.
        """
        trainer = self.trainer
        self._beat("saving")  # all ranks: those that write nothing wait for rank 0, and may do it as long
        if self.committed != trainer.iteration:
            state = trainer.state()
            if self.saver is not None:
                if self.watch.alarmed:
                    state = {**state, "meta": {**(state.get("meta") or {}), divergence.SINCE: self.watch.since}}
                self.saver.commit(state, iteration=trainer.iteration, epoch=trainer.epoch, position=trainer.position,
                                  epoch_end=epoch_end, step=trainer.iterations_per_step, unkept=trainer.unkept,
                                  slowest_step=round(self.slowest_step, 4))
            self.slowest_step = 0.0  # since the last commit
            self.committed = trainer.iteration
            self._committed_at = time.monotonic()
        if wait and self.saver is not None:
            self.saver.settle(wait=True)

    def _heartbeat(self) -> None:
        now = time.monotonic()
        if self._began is None:
            # reported at once: from here on it is the ranks that answer signals
            self._began = (now, self.trainer.iteration)
        elif now - self._beat_at < BEAT_SECONDS and self.trainer.iteration < self.trainer.iterations:
            return
        self._beat("training")

    def _beat(self, phase: str) -> None:
        trainer, self._beat_at = self.trainer, time.monotonic()
        since, first = self._began or (self._beat_at, trainer.iteration)
        done = trainer.iteration - first
        measured = {} if self.saver is None else {"blocked_seconds": self.saver.blocked_seconds,
                                                  "write_seconds": self.saver.write_seconds,
                                                  "commits_fail": self.saver.trouble()}
        heartbeat.beat(phase=phase, iteration=trainer.iteration, iterations=trainer.iterations, epoch=trainer.epoch,
                   loss=trainer.loss, seconds_per_iteration=(self._beat_at - since) / done if done else None,
                   slowest_step=self.slowest_step, **measured)

    def complete(self) -> None:
        """The end of the training: last checkpoint, then the completion mark.

        Raises:
            RuntimeError: The last checkpoint cannot be written, not at a second try either.
        """
        # an attempt that finds nothing left to train takes the checkpoint that it began with: what hooks add to a model
        # when a training begins (EMA's buffers) does not exist, and another commit would lack it
        trained = self.trainer.iteration != self.started_at
        if trained:
            self.commit(epoch_end=True, wait=True)
        if self.saver is None:
            return
        if self.saver.failure:
            self.saver.again()
        newest = self.saver.last if trained else self._source()
        if self.saver.failure or newest is None:
            raise RuntimeError(f"the last checkpoint could not be written: {self.saver.failure}")
        # the mark before the events: it alone decides, so a kill in between repeats no training
        files.write_json(self.run.complete_file(self.attempt), {
            "attempt": self.attempt, "time": round(time.time(), 3), "checkpoint": newest.file})
        self.ledger.write("complete", **checkpoints.describe(newest))
        but = f", but {self.watch.what} from iteration {self.watch.since} on" if self.watch.alarmed else ""
        if but:
            self.logger.warning("complete%s", but)
        self.ledger.write("end", cause="complete", detail=f"iteration {self.trainer.iteration}{but}", rank=0)

    def _source(self) -> checkpoints.Manifest | None:
        """The checkpoint that the attempt began with."""
        name = self.run.read_attempt(self.attempt)["from"]
        return checkpoints.read(self.run, name) if name else None
