"""When the next score of a run is expected: from the pace of its training, and from what scoring took so far."""

from __future__ import annotations

from collections.abc import Iterable

from ..attempts.history import history
from ..base.errors import UserError
from ..chain import chain, evaluations
from ..reporting.run_state import RunState
from ..rundir import checkpoints
from ..rundir.run import Evaluation, Run


def next_score(run: Run, state: RunState) -> float | None:
    """Seconds until the next checkpoint is scored; None if that cannot be estimated, or nothing is left to score."""
    try:
        if not run.job().is_evaluated:
            return None
        if state.state == "evaluating":
            return _of_evaluation(run)
        left = state.seconds_left
        if left is None or state.iteration is None or not state.seconds_per_iteration:
            return None
        return _until_checkpoint(run, state, left) + (_usual_seconds(run.evaluations()) or 0.0)
    except (UserError, OSError):
        return None


def _until_checkpoint(run: Run, state: RunState, left: float) -> float:
    """Seconds until the checkpoint that is scored next is there; that of the end where no other is scored earlier."""
    block = run.job().evaluation
    if not block.while_training or state.iteration is None or state.seconds_per_iteration is None:
        return left
    wanted = [iteration for element in evaluations.read(run, chain.EVALUATE)
              if (iteration := _iteration_of(run, element.at)) is not None and iteration > state.iteration]
    return min([left, *((iteration - state.iteration) * state.seconds_per_iteration for iteration in wanted)])


def _iteration_of(run: Run, at: str) -> int | None:
    """The iteration that an element's checkpoint has; of an epoch it follows from the length of earlier ones."""
    unit, _, number = at.partition(" ")
    if unit == "iteration":
        return int(number)
    ended = [m for m in checkpoints.accepted(run) if m.epoch]
    return int(number) * ((ended[-1].iteration - ended[-1].position) // ended[-1].epoch) \
        if unit == "epoch" and ended else None


def _of_evaluation(run: Run) -> float | None:
    """Seconds that the evaluation at work still needs, at its pace so far."""
    for work in run.evaluations():
        number = work.newest_attempt()
        beat = work.heartbeat(number) or {}
        done, total, now = beat.get("done"), beat.get("total"), beat.get("time")
        if work.all_metrics() or not done or not total or beat.get("phase") != "inference" or now is None:
            continue
        begin = next((r.begin for r in history(work, alive=True) if r.number == number), None)
        if begin is not None and now > begin:
            return (total - done) * (now - begin) / done
    return None


def _usual_seconds(works: Iterable[Evaluation]) -> float | None:
    """What the newest evaluation that is complete took."""
    took = [record.end - record.begin for work in works if work.all_metrics() for record in history(work, alive=False)
            if record.end is not None and record.cause == "complete"]
    return took[-1] if took else None
