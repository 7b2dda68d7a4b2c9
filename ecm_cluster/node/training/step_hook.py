"""What happens between two optimizer steps: heartbeat, agreement of the ranks, commit, end.

A signal reaches ranks at different moments and at different steps. So nobody acts on it alone: after each step the
ranks reduce their wishes (stop, save) over a small gloo group, and all of them act, or none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist

from ...base import files
from ...rundir import checkpoints
from ...rundir.run import Run
from .. import heartbeat, signals
from . import divergence, rank_buffers
from .saver import Saver


class AgreedStop(Exception):
    """All ranks end now, at the same step; the text says whether its checkpoint was committed (on rank 0)."""


class Boundary:
    """Called by the runner after each iteration, with all its counters advanced.

    A commit blocks the training while the state is copied; a process of its own writes it. The training waits for
    that process where somebody counts on the checkpoint: at a stop, at the end of an epoch, and at completion.

    Args:
        group: A gloo group over all ranks, for agreements only.
        every: Iterations between checkpoints; 0: none by iterations.
        also: Further iterations at which to commit, or at the end of the step that holds one; the same in all ranks.
        minutes: Minutes between checkpoints; 0: none by time.
        keep: Checkpoints to retain besides epochs' ends.
        max_iterations: Where the training is complete.
        on_nan: ``warn``, or ``stop``: what follows where the loss is no longer finite.
    """

    def __init__(self, run: Run, attempt: int, rank: int, world_size: int, group: Any, *, every: int,
                 minutes: float, keep: int, max_iterations: Callable[[], int],
                 also: Iterable[int] = (), on_nan: str = "warn") -> None:
        self.run, self.attempt, self.rank, self.world_size, self.group = run, attempt, rank, world_size, group
        self.every, self.seconds, self.keep, self.max_iterations = every, minutes * 60, keep, max_iterations
        self.also = sorted(also)
        self.on_nan, self.watch = on_nan, divergence.LossWatch()
        self.ledger = run.ledger(attempt, f"train{rank:03d}", patient=True)
        self._committed_at = self._beat_at = time.monotonic()
        self._began: tuple[float, int] | None = None
        self._step_began: float | None = None
        self.slowest_step = 0.0
        self.committed: int | None = None
        # started before the training touches much memory; the other ranks write nothing
        self.saver = Saver(run, attempt, keep, self.ledger) if rank == 0 else None

    def __call__(self, runner: Any, epoch_end: bool) -> None:
        self._time_step()
        self._heartbeat(runner)
        if self.saver is not None:
            self.saver.settle(runner.logger, wait=False)
        stop, save, diverged = self._agree(runner)
        if diverged:
            self._diverged(runner)
        elif self.watch.recovered(runner):
            self._warn(runner, f"the loss was not finite for a while, and is again since iteration {runner._iter}")
        if save or stop or epoch_end:
            self.commit(runner, epoch_end, wait=stop or epoch_end)
        self._step_began = time.monotonic()
        if stop and runner._iter < self.max_iterations():
            failure = self.saver.failure if self.saver is not None else None
            raise AgreedStop(f"its checkpoint could not be written ({failure}); {self.saver.stands()}"
                             if failure and self.saver is not None else "the checkpoint is committed")

    def _time_step(self) -> None:
        # from boundary to boundary; so the first step of an attempt, which also warms up, is not among them, nor is one
        # during which the process was stopped and continued
        if self._step_began is not None and not signals.continued():
            self.slowest_step = max(self.slowest_step, time.monotonic() - self._step_began)

    def _agree(self, runner: Any) -> tuple[bool, bool, bool]:
        by_time = bool(self.seconds) and time.monotonic() - self._committed_at >= self.seconds
        # since the last step, which may have taken several iterations
        before = runner._iter - runner.iterations_per_step
        by_count = bool(self.every) and runner._iter // self.every > before // self.every
        asked = any(before < iteration <= runner._iter for iteration in self.also)
        wishes = torch.tensor([signals.asked_to_stop(), by_time or by_count or asked,
                               self.watch.look(runner)], dtype=torch.int32)
        if self.world_size > 1:
            dist.all_reduce(wishes, op=dist.ReduceOp.MAX, group=self.group)
        return bool(wishes[0]), bool(wishes[1]), bool(wishes[2])

    def _diverged(self, runner: Any) -> None:
        """All ranks: say since when the loss is not finite, and end, or keep the newest checkpoint from before.

        Raises:
            divergence.Diverged: The job says to stop then.
        """
        text = self.watch.alarm(runner)
        if self.saver is not None:
            self.saver.settle(runner.logger, wait=True)
        assert self.watch.since is not None
        sound = divergence.newest_before(self.run, self.watch.since, runner.iterations_per_step)
        text += "; no checkpoint is from before" if sound is None else \
            f"; {sound.file} is from before, and `resume {self.run.name} --from {sound.iteration}` goes back to it"
        self._warn(runner, text)
        if self.on_nan == "stop":
            raise divergence.Diverged(text)
        if self.saver is not None and sound is not None:
            self.saver.spare = sound.iteration

    def _warn(self, runner: Any, text: str) -> None:
        if self.saver is not None:
            runner.logger.warning("%s", text)
            self.ledger.write("warning", about="loss", iteration=runner._iter, text=text)

    def commit(self, runner: Any, epoch_end: bool, wait: bool) -> None:
        """Collective: every rank contributes what is its own, rank 0 has it written.

        Args:
            wait: Until it is written, or has failed.
        """
        self._beat(runner, "saving")  # all ranks: those that write nothing wait for rank 0, and may do it as long
        if self.committed != runner._iter:
            own = {"rank_buffers": rank_buffers.gather(runner, self.group),
                   **rank_buffers.gather_plain(runner, self.group)}
            if self.saver is not None:
                state = {**runner.state(), **own}
                self.saver.commit(state, runner.logger, iteration=runner._iter, epoch=runner._epoch,
                                  position=runner.position, epoch_end=epoch_end, step=runner.iterations_per_step,
                                  unkept=runner.unkept, slowest_step=round(self.slowest_step, 4))
            self.slowest_step = 0.0  # since the last commit
            self.committed = runner._iter
            self._committed_at = time.monotonic()
        if wait and self.saver is not None:
            self.saver.settle(runner.logger, wait=True)

    def _heartbeat(self, runner: Any) -> None:
        now = time.monotonic()
        if self._began is None:
            self._began = (now, runner._iter)  # said at once: from here on it is the ranks that answer signals
        elif now - self._beat_at < 1.0 and runner._iter < self.max_iterations():
            return
        self._beat(runner, "training")

    def _beat(self, runner: Any, phase: str) -> None:
        self._beat_at = now = time.monotonic()
        since, first = self._began or (now, runner._iter)
        done = runner._iter - first
        outputs = getattr(runner, "outputs", None)  # not there where an attempt has nothing left to train
        loss = outputs.get("log_vars", {}).get("loss") if isinstance(outputs, dict) else None
        measured = {} if self.saver is None else {"blocked_seconds": self.saver.blocked_seconds,
                                                  "write_seconds": self.saver.write_seconds,
                                                  "commits_fail": self.saver.trouble()}
        heartbeat.beat(phase=phase, iteration=runner._iter, iterations=self.max_iterations(), epoch=runner._epoch,
                   loss=loss, seconds_per_iteration=(now - since) / done if done else None,
                   slowest_step=self.slowest_step, **measured)

    def complete(self, runner: Any) -> None:
        """The end of the training: last checkpoint, then the completion mark.

        Raises:
            RuntimeError: The last checkpoint cannot be written, not at a second try either.
        """
        # an attempt that finds nothing left to train takes the checkpoint that it began with: what hooks add to a model
        # when a training begins (EMA's buffers) is not there, and another commit would lack it
        trained = runner._iter != (runner.meta or {}).get("starts_after")
        if trained:
            self.commit(runner, epoch_end=True, wait=True)
        if self.saver is not None:
            if self.saver.failure:
                self.saver.again(runner.logger)
            newest = self.saver.last if trained else self._source()
            if self.saver.failure or newest is None:
                raise RuntimeError(f"the last checkpoint could not be written: {self.saver.failure}")
            files.write_json(self.run.complete_file(self.attempt), {
                "attempt": self.attempt, "time": round(time.time(), 3), "checkpoint": newest.file})
            self.ledger.write("complete", **checkpoints.describe(newest))
            but = f", but {self.watch.what} from iteration {self.watch.since} on" if self.watch.alarmed else ""
            if but:
                runner.logger.warning("complete%s", but)
            self.ledger.write("end", cause="complete", detail=f"iteration {runner._iter}{but}", rank=0)

    def _source(self) -> checkpoints.Manifest | None:
        """The checkpoint that the attempt began with."""
        name = self.run.read_attempt(self.attempt)["from"]
        return checkpoints.read(self.run, name) if name else None
