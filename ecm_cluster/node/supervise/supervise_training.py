"""The supervisor of a rank of a training: what it resumes from, and its answer to signals that the ranks cannot give.

From its first iteration on a training answers signals itself, all ranks at the same step. Before (imports, rendezvous,
staging) it cannot, and that may take longer than a grace.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from ...chain import chain, successor
from ...rundir import checkpoints, retention
from ...rundir.run import Run
from ...trackers import beside as trackers
from .. import signals
from ..beside import Beside
from ..companion import LAST_SECONDS, Closing, Companion
from . import afterwards, postmortem, requeue
from .supervisor import ASK_AGAIN_SECONDS, Supervisor

RELEASE_SECONDS = 10.0  # between two looks for new checkpoints: each reads manifests and the ledger
GRACE_SECONDS = 2.0  # for the trackers, once everything else is done, where the attempt was stopped or failed
# phases in which a worker cannot stop on its own
BEFORE_TRAINING = ("starting", "staging", "waiting for data", "first iteration")


class TrainingSupervisor(Supervisor):
    """Supervises a rank of a training."""

    process = "training worker"

    def __init__(self, run: Run) -> None:
        super().__init__(run, run)
        self._asked = float("-inf")
        self._trackers: list[Companion] = []

    def run(self) -> None:
        seconds = 0.0
        try:
            super().run()
            seconds = LAST_SECONDS
        finally:
            for tracker in self._trackers:
                tracker.join(seconds or GRACE_SECONDS)

    def aside(self, attempt: int) -> list[Closing]:
        """Let evaluations of new checkpoints start, too: Slurm may take a minute to answer. And feed the trackers."""
        self._trackers = trackers.start(self.training, attempt)
        return [*super().aside(attempt), Beside(partial(successor.release_due, self.training), RELEASE_SECONDS),
                *self._trackers]

    def poll_signals(self, attempt: int, ledger: Any) -> None:
        """End the workers where a signal leaves no time until they can agree, at the end of their first iteration."""
        self.stand_in(attempt, ledger)
        phase = self.memory.read().get("phase", "starting")
        if self.place.rank != 0 or not signals.asked_to_stop() or phase not in BEFORE_TRAINING \
                or time.monotonic() - self._asked < ASK_AGAIN_SECONDS:
            return
        self._asked = time.monotonic()
        if not self.place.on_slurm:
            cause = "cancelled" if self.training.cancelled() else "signalled"
        else:
            cause = requeue.ask(self.training, self.place)
        # within its grace period a job that Slurm requeues itself may reach a first step, and so may one near its limit
        if cause in ("cancelled", "requeued") or (cause == "preempted" and not requeue.slurm_requeues(self.place)):
            postmortem.abort(self.work, attempt, ledger, rank=0, cause=cause, stopped=True)

    def already_done(self) -> bool:
        return self.training.completion() is not None

    def basis(self, ledger: Any) -> dict[str, Any]:
        until = chain.resume_point(self.training)  # `resume --from`: later checkpoints count no more
        newest, accepts, broken = checkpoints.choose(self.training, until)
        for manifest, reason in broken:
            ledger.write("quarantine", checkpoint=manifest.file, reason=reason)
        return {"from": newest.file if newest else None, "accepts": [m.file for m in accepts],
                "abandoned": retention.abandoned_after(self.training, until)}


def main(run: str) -> None:
    """What a task of a training's job does."""
    supervisor = TrainingSupervisor(Run(run))
    supervisor.run()
    # with an evaluation behind it the end of the training is not that of the run
    if supervisor.place.rank == 0 and not supervisor.training.job().is_evaluated:
        afterwards.carry_out(supervisor.training)
