"""The supervisor of a rank of an evaluation, and its answer to signals.

An evaluation commits only what it has finished, so a signal interrupts nothing: it continues until it is killed, and
rank 0 has the job requeued if Slurm would not requeue it automatically.
"""

from __future__ import annotations

import signal
import time
from typing import Any

from ...attempts import causes
from ...chain import evaluations
from ...rundir import checkpoints
from ...rundir.checkpoints import Manifest
from ...rundir.run import Evaluation, Run
from .. import signals, world
from ..gpu import preflight
from . import afterwards, postmortem, requeue
from .attempts import AttemptFailed
from .supervisor import ASK_AGAIN_SECONDS, Supervisor


class EvaluationSupervisor(Supervisor):
    """Supervises a rank of an evaluation."""

    process = "evaluation worker"
    work: Evaluation

    def __init__(self, work: Evaluation, run: Run, link: str, index: int, checkpoint: Manifest) -> None:
        super().__init__(work, run)
        self.link, self.index, self.checkpoint = link, index, checkpoint
        self.element = evaluations.read(run, link)[index]
        self._preempted, self._asked = False, float("-inf")

    def already_done(self) -> bool:
        return evaluations.is_done(self.work, self.element.scoring)

    def on_gpu(self) -> bool:
        return super().on_gpu() and not evaluations.has_detections(self.work)  # scoring alone takes none

    def arguments(self) -> list[str]:
        return [self.link, str(self.index), self.checkpoint.file]

    def basis(self, ledger: Any) -> dict[str, Any]:
        # where the model has answered on all images already, nothing is read of it any more
        broken = None if evaluations.has_detections(self.work) else \
            checkpoints.problem(self.training, self.checkpoint)
        if broken:
            text = (f"{self.checkpoint.file} is damaged: {broken}; restore {self.checkpoint.path(self.training)}, or "
                    "score another checkpoint")
            preflight.refuse(self.work, self.training, self.place, text)
        ways = [evaluations.scoring_variant(scoring) for scoring in self.element.scoring]
        return {"from": self.checkpoint.file, "accepts": [], "ways": ways}

    def poll_signals(self, attempt: int, ledger: Any) -> None:
        """Ask why a signal came; end what is cancelled, and have the job run again where that is for us to do."""
        self.stand_in(attempt, ledger)
        if self.place.rank != 0 or not signals.asked_to_stop() \
                or time.monotonic() - self._asked < ASK_AGAIN_SECONDS:
            return
        received = signals.received()
        cause, self._asked = self._cause(), time.monotonic()
        if cause == "unknown":
            return
        self._asked = float("-inf")
        signals.clear()
        try:
            self._answer(cause, received, attempt, ledger)
        except (OSError, ValueError):
            signals.ask_to_stop(signal.SIGTERM)  # storage failed: the signal is answered when it does not
            raise

    def _answer(self, cause: str, received: list[str], attempt: int, ledger: Any) -> None:
        if cause in ("cancelled", "requeued"):
            # Slurm brings back at the end of the grace what it has preempted
            cause = "preempted" if cause == "requeued" and self._preempted else cause
            # the end before the abort, at which all workers end: without one the attempt would count as lost
            self._end(cause, received, ledger)
            postmortem.abort(self.work, attempt, ledger, rank=0, cause=cause)
        elif cause == "preempted":
            self._preempted = True
            if not requeue.slurm_requeues(self.place):
                self._end(cause, received, ledger)
                refused = requeue.requeue(self.training, self.work, attempt, self.place, ledger, self.link)
                if refused is None:
                    postmortem.abort(self.work, attempt, ledger, rank=0, cause=cause)

    def _end(self, cause: str, received: list[str], ledger: Any) -> None:
        detail = f"{causes.CAUSES[cause].text} ({', '.join(dict.fromkeys(received))} received)"
        ledger.write("end", cause=cause, detail=detail, rank=0, next="stop")

    def _cause(self) -> str:
        if self.training.cancelled(self.link):
            return "cancelled"
        if not self.place.on_slurm:
            # the signal may follow the driver's death, after which nothing starts the evaluation again
            return "cancelled" if world.driver_is_gone() else "signalled"
        return requeue.ask(self.training, self.place)


def main(run: str, link: str) -> None:
    """What a task of an evaluation's job does."""
    supervisor = evaluation_supervisor(Run(run), link)
    supervisor.run()
    if supervisor.place.rank == 0:
        afterwards.carry_out(supervisor.training)


def evaluation_supervisor(run: Run, link: str) -> EvaluationSupervisor:
    """The supervisor of this job's element of a link.

    Raises:
        AttemptFailed: Its checkpoint does not exist; a half-trained model is never scored as if it were the result.
    """
    index = world.element()
    element = evaluations.read(run, link)[index]
    checkpoint = evaluations.resolve(run, element.at)
    if checkpoint is None:
        incomplete = element.at == evaluations.LAST and run.completion() is None
        why = f"{run.name} is not complete" if incomplete else f"{run.name} has no such checkpoint"
        raise AttemptFailed(f"{element.at}: {why}, so its evaluation does not run")
    work = evaluations.evaluation_of(run, checkpoint, element.settings)
    return EvaluationSupervisor(work, run, link, index, checkpoint)
