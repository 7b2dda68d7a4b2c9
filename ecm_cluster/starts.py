"""Starts of a job that could not work, on record beside the attempts; and the nodes that a run leaves out for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .ledger import Event
from .run import Work

# Nodes that a run leaves out because it could not start there, or because their GPUs failed; then it stops.
NODE_LIMIT = 3
# Failures of GPUs on one node after which the node is left out.
GPU_FAILURES_OF_A_NODE = 2


def failed(work: Work, events: list[Event]) -> Event | None:
    """What kept the newest start from working, if a rank could not take part in an attempt: a ``not-started`` event.

    Rank 0 may have taken an attempt before another rank found that it cannot start: then it is that attempt's end.
    """
    newest = work.newest_attempt()
    start = start_of(work.read_attempt(newest)) if newest else ""
    found = [e for e in events if e.kind == "not-started" and (e.attempt == newest or e["start"] == start)]
    return max(found, key=_order, default=None)


def _order(event: Event) -> tuple[int, int, int, int]:
    """Starts in the order in which Slurm made them, by its own numbers, and of one start the lowest rank last."""
    job, _, restart = event["start"].partition(":")[2].rpartition(":")
    number = job.partition("_")[0]
    return event["resumes"], int(number) if number.isdigit() else 0, int(restart or 0), -(event.get("rank") or 0)


def in_a_row(work: Work, events: list[Event], cause: str | None = None) -> list[Event]:
    """The newest starts that began no attempt, one event for each: those since the newest attempt and resume.

    Args:
        cause: Of those that count, the newest included; None: all.
    """
    newest, resumes = work.newest_attempt(), resumes_of(events)
    found = {e["start"]: e for e in sorted((e for e in events if e.kind == "not-started"), key=_order)
             if e.attempt == newest and e["resumes"] == resumes}
    return [e for e in found.values() if cause in (None, e["cause"])]


def start_of(record: Mapping[str, Any]) -> str:
    """The start of a job that an attempt belongs to, from the attempt's file."""
    return str(record.get("identity", "")).rpartition(":")[0]


def nodes_at_fault(events: list[Event], start: str) -> dict[str, str]:
    """Nodes that a run should leave out from now on, each with the reason.

    Args:
        start: Identity of the start of the job that has just ended.
    """
    found = {e["node"]: e["detail"] for e in events
             if e.kind == "not-started" and e["of_node"] and e["start"] == start}
    since = counted_from(events)
    failures = [e for e in events if e.kind == "end" and e["cause"] == "GPU failure" and e.attempt > since]
    for node in dict.fromkeys(e["node"] for e in failures if e.get("node")):
        times = len({e.attempt for e in failures if e.get("node") == node})
        if times >= GPU_FAILURES_OF_A_NODE:
            found.setdefault(node, f"its GPUs failed {times} times")
    return found


def left_out(events: list[Event]) -> list[str]:
    """Nodes that a run leaves out, in the order in which they came on record; a resume gives them another chance."""
    resumes = resumes_of(events)
    return list(dict.fromkeys(e["node"] for e in events if e.kind == "left-out" and e["resumes"] == resumes))


def resumes_of(events: list[Event]) -> int:
    """How often the user has resumed the run."""
    return sum(e.kind == "resumed" for e in events)


def counted_from(events: list[Event]) -> int:
    """Attempts up to this one are forgiven: the user has resumed the run after them."""
    return max((e.attempt for e in events if e.kind == "resumed"), default=0)
