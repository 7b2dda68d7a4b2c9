"""The supervisor of a rank of an evaluation, and its answer to signals.

An evaluation has nothing to commit but what it comes to the end of, so a signal interrupts nothing: it goes on as
long as it is let, and rank 0 sees to it that the job comes back where Slurm would not bring it back by itself.
"""

from __future__ import annotations

import time
from typing import Any

from .. import chain, files, recovery
from ..run import Evaluation, Run
from . import preemption, requeue, world
from .supervisor import ASK_AGAIN_SECONDS, AttemptFailed, Supervisor


class EvaluationSupervisor(Supervisor):
    """Supervises a rank of an evaluation."""

    module = "ecm_cluster.node.evaluate"
    work: Evaluation

    def __init__(self, work: Evaluation, run: Run) -> None:
        super().__init__(work, run)
        self._preempted, self._asked = False, float("-inf")

    def already_done(self) -> bool:
        return self.work.metrics() is not None

    def basis(self, ledger: Any) -> dict[str, Any]:
        return {"from": self.training.completion()["checkpoint"], "accepts": []}  # type: ignore[index]

    def heed(self, attempt: int, ledger: Any) -> None:
        """Ask why a signal came; end what is cancelled, and have the job run again where that is for us to do."""
        if self.place.rank != 0 or not preemption.asked_to_stop() \
                or time.monotonic() - self._asked < ASK_AGAIN_SECONDS:
            return
        heard = preemption.received()
        cause, self._asked = self._cause(), time.monotonic()
        if cause == "unknown":
            return
        self._asked = float("-inf")
        preemption.clear()
        if cause in ("cancelled", "requeued"):
            # Slurm brings back at the end of the grace what it has preempted
            cause = "preempted" if cause == "requeued" and self._preempted else cause
            self._end(cause, heard, ledger)
            files.write_json(self.work.abort_file(attempt), {"rank": 0, "cause": cause})
        elif cause == "preempted":
            self._preempted = True
            if not requeue.slurm_requeues(self.place):
                self._end(cause, heard, ledger)
                refused = requeue.requeue(self.training, self.work, attempt, self.place, ledger)
                if refused is None:
                    files.write_json(self.work.abort_file(attempt), {"rank": 0, "cause": cause})

    def _end(self, cause: str, heard: list[str], ledger: Any) -> None:
        detail = f"{recovery.ENDINGS[cause].text} ({', '.join(dict.fromkeys(heard))} received)"
        ledger.write("end", cause=cause, detail=detail, rank=0)

    def _cause(self) -> str:
        if self.training.cancel_file.exists():
            return "cancelled"
        if self.place.cluster != "slurm":
            # whoever asked for it may have been the driver's death, after which nobody starts the evaluation again
            return "cancelled" if world.driver_is_gone() else "signalled"
        return requeue.ask(self.training, self.place)


def evaluation_supervisor(run: Run) -> EvaluationSupervisor:
    """The supervisor of the evaluation of a run's last checkpoint.

    Raises:
        AttemptFailed: The run is not complete; a half-trained model is never scored as if it were the result.
    """
    if run.completion() is None:
        raise AttemptFailed(f"{run.name} is not complete: its evaluation does not run")
    return EvaluationSupervisor(chain.last_evaluation(run), run)
