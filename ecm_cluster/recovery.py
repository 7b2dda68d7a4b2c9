"""Why something ended, what to do next, and within which budget.

Two tables. :data:`ENDINGS` maps the cause of an attempt's end to the next action; :func:`why_signalled` maps
Slurm's answer after a signal to a cause. Everything that restarts or refuses to restart a run asks here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .ledger import Event
from .run import Run, Work

# Consecutive attempts without a commit after which a run stops, whatever the causes were.
BARREN_LIMIT = 3


@dataclass(frozen=True)
class Ending:
    """What follows a cause: go on (``continue``) or stop; in the user's words why."""

    action: str
    text: str


ENDINGS: dict[str, Ending] = {
    "complete": Ending("none", "the work is complete"),
    "preempted": Ending("continue", "Slurm preempted the job"),
    "time limit": Ending("continue", "the time limit was near"),
    "signalled": Ending("continue", "somebody sent a signal"),
    "requeued": Ending("wait", "Slurm had requeued the job already"),
    "cancelled": Ending("stop", "the job was cancelled"),
    "crashed": Ending("stop", "the program failed"),
    "killed": Ending("stop", "a rank was killed"),
    "lost": Ending("stop", "the attempt ended without a word"),
    "not startable": Ending("stop", "the program cannot start"),
}


def why_signalled(answer: Mapping[str, str] | None, restarts: int, lead: float, remaining: float | None) -> str:
    """The cause of a SIGTERM or SIGUSR2, from the first ``scontrol show job`` after it.

    Args:
        answer: Fields of the job, or None where Slurm gave none in time.
        restarts: SLURM_RESTART_COUNT of this attempt, 0 at the first.
        lead: Seconds before the time limit at which Slurm warns; it may come up to 60 s early.
        remaining: Seconds to the job's EndTime, None if unknown.

    Returns:
        A key of :data:`ENDINGS`, or ``unknown`` where Slurm did not answer.
    """
    if not answer:
        return "unknown"
    state = answer.get("JobState", "")
    again = int(answer.get("Restarts", 0) or 0) > restarts
    # RUNNING too: then it is the next start of this job, and this task outlived a node that Slurm took for dead
    if again and state in ("RUNNING", "CONFIGURING", "COMPLETING", "PENDING"):
        return "requeued"
    if state == "RUNNING":
        if answer.get("PreemptTime", "None") not in ("None", "", "N/A", "Unknown"):
            return "preempted"
        return "time limit" if remaining is not None and remaining <= lead + 60 else "signalled"
    if state == "COMPLETING" and answer.get("Reason") == "TimeLimit":
        return "time limit"
    return "cancelled"


@dataclass(frozen=True)
class Decision:
    """What is next for a piece of work: ``done``, ``continue``, ``wait`` or ``stop``, and why."""

    action: str
    reason: str


def decide(work: Work) -> Decision:
    """What to do after the newest attempt has ended, from the ledger alone."""
    newest = work.newest_attempt()
    events = work.events()
    end = last_end(events, newest)
    if end is not None and end["cause"] == "complete":
        return Decision("done", "complete")
    barren = barren_attempts(work, events)
    if barren >= BARREN_LIMIT and isinstance(work, Run):
        return Decision("stop", f"{barren} attempts in a row ended without a new checkpoint")
    if end is None:
        return Decision("stop", ENDINGS["lost"].text)
    ending = ENDINGS[end["cause"]]
    return Decision(ending.action, end.get("detail") or ending.text)


def last_end(events: list[Event], attempt: int) -> Event | None:
    """The end of an attempt: the first that was recorded, those last that only followed from another rank's."""
    ends = [e for e in events if e.attempt == attempt and e.kind == "end"]
    return min(ends, key=lambda e: (bool(e.get("follows")), e.time), default=None)


def barren_attempts(work: Work, events: list[Event]) -> int:
    """How many attempts in a row, the newest included, brought nothing that counts."""
    fruitful = {e.attempt for e in events if e.kind in ("commit", "complete")}
    count = 0
    for attempt in range(work.newest_attempt(), 0, -1):
        if attempt in fruitful:
            break
        count += 1
    return count


def describe_end(end: Event | None) -> dict[str, Any] | None:
    """An end as ``status`` shows it."""
    if end is None:
        return None
    return {"cause": end["cause"], "detail": end.get("detail"), "rank": end.get("rank"), "time": end.time}
