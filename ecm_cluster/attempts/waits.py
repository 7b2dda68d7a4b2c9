"""The time that the starts of a run's jobs waited in the queue.

Its beginning and its end were seen by two machines, so that it is as exact as their clocks agree; never below zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..rundir.ledger import Event
from ..rundir.run import Run
from .history import events_of
from .holds import Hold

FIRST, PREEMPTED, REQUEUED, EVALUATIONS = "first", "preempted", "requeued", "evaluation"
KINDS = (FIRST, PREEMPTED, REQUEUED, EVALUATIONS)


@dataclass(frozen=True)
class Wait:
    """Time in the queue before a start of a job.

    Attributes:
        kind: What came before: a submission (``first``), a preemption, another end; or ``evaluation`` for a job that
            evaluates.
    """

    begin: float
    end: float
    kind: str


def of(run: Run, found: Sequence[Hold]) -> list[Wait]:
    """What each start waited for in Slurm's queue: since the submission of its job, or since its start before."""
    events = events_of(run)
    waits: list[Wait] = []
    for index, hold in enumerate(found):
        if not hold.queued:
            continue
        job = hold.job_id.partition("_")[0]
        before = next((h for h in reversed(found[:index]) if h.job_id == hold.job_id), None)
        since, kind = (before.end, _after(before)) if before else _submitted(events, job, found[:index])
        if hold.evaluates:
            since, kind = _evaluation_since(events, since, hold), EVALUATIONS
        if since is not None and hold.begin > since:
            waits.append(Wait(since, hold.begin, kind))
    return waits


def _after(before: Hold) -> str:
    cause = before.attempts[-1][1].cause if before.attempts else None
    return PREEMPTED if cause == "preempted" else REQUEUED


def _submitted(events: Sequence[Event], job: str, earlier: Sequence[Hold]) -> tuple[float | None, str]:
    """When a job was submitted, and what came before: nothing, or a start in whose place it was submitted."""
    when = next((e.time for e in events if e.kind == "submitted" and e["job_id"] == job), None)
    instead = next((e for e in events if e.kind == "successor" and e["job_id"] == job), None)
    trained = [hold for hold in earlier if not hold.evaluates]
    if instead is None or not trained:
        return when, FIRST
    return max(trained[-1].end, when or 0.0), _after(trained[-1])


def _evaluation_since(events: Sequence[Event], since: float | None, hold: Hold) -> float | None:
    """An evaluation waits for its training first, which does not count as waiting in the queue."""
    ready = [e.time for e in events if e.time <= hold.begin and (
        e.kind == "complete" or (e.kind == "released" and e["mark"].startswith(f"{hold.job_id}@")))]
    return since if since is None or not ready or hold.restart else max(since, min(ready))
