"""Why something ended, what to do next, and within which budget.

Everything that restarts or refuses to restart a run asks here. The causes are in ``causes.py``, what Slurm's answers
mean in ``slurm_ends.py``. No statement about an ending compares the clocks of two hosts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..base.units import duration_text
from ..rundir.ledger import Event
from ..rundir.run import Evaluation, Run, Work
from . import starts
from .causes import CAUSES, Cause

NO_PROGRESS_LIMIT = 3  # consecutive attempts that ended for the run's own causes without a commit: then it stops
WARN_LIMIT = 3  # consecutive starts that ended for other causes before a new checkpoint: then ``status`` warns


def ending(end: Event | None) -> Cause:
    """What follows the end of an attempt; None: one that nobody recorded. A cause of a newer version stops the run."""
    cause = end["cause"] if end else "lost"
    return CAUSES.get(cause) or Cause("stop", cause, "run")


@dataclass(frozen=True)
class Decision:
    """What is next for a piece of work: ``done``, ``continue``, ``wait`` or ``stop``, and why."""

    action: str
    reason: str


def decide(work: Work) -> Decision:
    """What to do after the newest attempt has ended, from the ledger alone."""
    newest = work.newest_attempt()
    if newest and is_done(work):  # regardless of its processes since then
        return Decision("done", "complete")
    events = work.events()
    refused = starts.failed(work, events)
    if refused is not None:
        return _after_failed_start(refused, work, events)
    if newest == 0:
        return Decision("stop", "no attempt began; see the job's log")
    end = last_end(events, newest)
    cause = end["cause"] if end else "lost"
    known = ending(end)
    reason = (end.get("detail") if end else None) or known.text
    if cause == "complete":
        return Decision("done", "complete")
    if known.action != "continue":
        return Decision(known.action, reason)
    spent = over_budget(work, events)
    return Decision("stop", f"{reason}; {spent}") if spent else Decision("continue", reason)


def _after_failed_start(refused: Event, work: Work, events: list[Event]) -> Decision:
    """Where one node is at fault, another one may do: on Slurm, and for so many nodes and starts."""
    cause, known = refused["cause"], ending(refused)
    reason = f"{cause}: {refused['detail']}"
    if known.owner == "scheduler" or cause == "node failure":
        return Decision(known.action, reason)
    if refused["cluster"] != "slurm" or (cause == "not startable" and not refused["of_node"]):
        return Decision("stop", reason)
    count = len(starts.in_a_row(work, events, cause))
    if cause != "not startable" and count > (NO_PROGRESS_LIMIT - 1 if known.budget is None else known.budget):
        return Decision("stop", f"{reason}; {count} starts in a row, so it is not tried again")
    nodes = {e["node"] for e in events if e.kind == "not-started" and e["of_node"]
             and e["resumes"] == refused["resumes"]}
    if len(nodes) > starts.NODE_LIMIT:
        return Decision("stop", f"{reason}; it could not start on {len(nodes)} nodes, so no other is tried")
    return Decision("continue", reason)


def is_done(work: Work) -> bool:
    """Whether its completion mark stands, or all the metrics do that its newest attempt was begun for."""
    if isinstance(work, Run):
        return work.completion() is not None
    ways = work.read_attempt(work.newest_attempt()).get("ways", [""])
    return isinstance(work, Evaluation) and all(work.metrics(way) is not None for way in ways)


def over_budget(work: Work, events: list[Event]) -> str | None:
    """Why nothing may start again after the newest attempt, or None."""
    ends = _trail(work, events)
    newest = ends[0]
    if newest and newest["cause"] == "crashed" and len(ends) > 1 and _same_error(newest, ends[1]):
        return f"the same error twice at iteration {newest.get('iteration') or 0}, so it is not tried again"
    if newest and newest["cause"] == "GPU failure" and any(_same_elsewhere(newest, end) for end in ends[1:]):
        return (f"the same error on two nodes at iteration {newest.get('iteration') or 0}, so it is the program's, and "
                "it is not tried again")
    cause = newest["cause"] if newest else "lost"
    count = sum((end["cause"] if end else "lost") == cause for end in ends)
    budget = ending(newest).budget
    if budget is not None and count > budget:
        return f"{cause} {count} times since the last new checkpoint, so it is not tried again"
    # an evaluation commits no checkpoints, but one that does not fit into its time limit never will
    return no_progress(work, always=cause == "time limit")


def no_progress(work: Work, always: bool = False) -> str | None:
    """Why a run stops: its newest attempts ended for causes of its own and brought nothing. None: it need not.

    Args:
        always: Whether an evaluation counts too.
    """
    fruitless = attempts_without_progress(work, work.events())
    if fruitless < NO_PROGRESS_LIMIT or not (always or isinstance(work, Run)):
        return None
    return f"{fruitless} attempts in a row ended without a new " + ("checkpoint" if isinstance(work, Run) else "result")


def _trail(work: Work, events: list[Event]) -> list[Event | None]:
    """The ends of the attempts since the last progress, newest first: an attempt that committed ended after it."""
    with_progress, ends = _with_progress(events), []
    for attempt, end in _ends(work, events):
        ends.append(end)
        if attempt in with_progress:
            break
    return ends or [None]


def _ends(work: Work, events: list[Event]) -> Iterator[tuple[int, Event | None]]:
    """The end of each attempt that counts, newest first."""
    by_attempt: dict[int, list[Event]] = {}
    for event in events:
        by_attempt.setdefault(event.attempt, []).append(event)
    since = starts.counted_from(events)
    for attempt in reversed(work.attempts()):
        if attempt <= since:
            break
        yield attempt, last_end(by_attempt.get(attempt, []), attempt)


def _same_error(one: Event | None, other: Event | None) -> bool:
    """Whether two crashes are the same traceback at the same iteration."""
    def mark(end: Event | None) -> Any:
        text = (end.get("traceback") or "") if end else ""
        return end and text and (end.get("iteration"), without_numbers(text))

    return bool(mark(one)) and mark(one) == mark(other)


def _same_elsewhere(one: Event, other: Event | None) -> bool:
    """Whether the same error came at the same iteration on another node."""
    return other is not None and one.get("node") != other.get("node") and _same_error(one, other)


def without_numbers(trace: str) -> str:
    """A traceback without what differs from process to process: addresses, sizes, process ids, seconds.

    The lines that say where in the code it happened keep their numbers.
    """
    lines = trace.splitlines()
    return "\n".join(line if line.startswith('  File "') else re.sub(r"0x[0-9a-f]+|\d+(\.\d+)?", "0", line)
                     for line in lines)


def _with_progress(events: list[Event]) -> set[int]:
    return {e.attempt for e in events if e.kind in ("commit", "complete")}


def last_end(events: list[Event], attempt: int) -> Event | None:
    """The end of an attempt, of several that its ranks recorded; their clocks differ, so the times tell nothing.

    What rank 0 decided when all ranks had stopped outranks the rest. Of failures the first is the one whose rank made
    the attempt's abort file, as one alone can; those that only followed from another rank's come last.
    """
    own = [e for e in events if e.attempt == attempt]
    first = next((e.get("rank") for e in own if e.kind == "abort"), None)

    def order(end: Event) -> tuple[Any, ...]:
        rank = end.get("rank")
        decided = end.get("next") is not None
        return (not decided, rank is None or rank != first, bool(end.get("follows")), rank is None, rank or 0,
                end.writer, end.sequence)

    return min((e for e in own if e.kind == "end"), key=order, default=None)


def has_heartbeat(work: Work, attempt: int, seconds: float) -> bool:
    """Whether an attempt has recorded no end, and has a heartbeat that is younger than so many seconds."""
    silence = work.seconds_since_heartbeat(attempt)
    return silence is not None and silence < seconds and last_end(work.events(attempt), attempt) is None


def newest_end(work: Work) -> Event | None:
    """Why the work does not continue: why the newest start failed, else how the newest attempt ended."""
    events, newest = work.events(), work.newest_attempt()
    return starts.failed(work, events) or (last_end(events, newest) if newest else None)


def attempts_without_progress(work: Work, events: list[Event]) -> int:
    """How many attempts in a row, the newest included, brought nothing and ended for causes of the run's own.

    Ends that the scheduler or a node caused do not concern the run; they are neither counted nor progress.
    """
    return sum(ending(end).owner == "run" for end in _since_progress(work, events))


def _since_progress(work: Work, events: list[Event]) -> list[Event | None]:
    """The ends of the attempts after the last one with progress, newest first; a resume begins the count again."""
    with_progress, ends = _with_progress(events), []
    for attempt, end in _ends(work, events):
        if attempt in with_progress:
            break
        ends.append(end)
    return ends


def interruptions(work: Work) -> str | None:
    """In words: that several starts in a row ended before a new checkpoint through no fault of the run, if they did."""
    events = work.events()
    stops = [end for end in _since_progress(work, events) if end] + starts.in_a_row(work, events)
    count = Counter(end["cause"] for end in stops if ending(end).owner != "run")
    if sum(count.values()) < WARN_LIMIT:
        return None
    shown = ", ".join(f"{cause} {times}x" for cause, times in count.most_common())
    return f"{sum(count.values())} starts in a row ended before a new checkpoint ({shown})"


def failed_commit(events: list[Event], attempt: int) -> str | None:
    """In words: that the last commit which an attempt tried failed, why, and what stands; None if it did not."""
    tried = [e for e in events if e.attempt == attempt and e.kind in ("commit", "commit-failed")]
    if not tried or tried[-1].kind == "commit":
        return None
    last = tried[-1]
    return f"the checkpoint of iteration {last['iteration']} could not be written ({last['reason']}); {last['stands']}"


def failing_text(trouble: dict[str, Any] | None) -> str:
    """What a heartbeat's ``commits_fail`` says, in words; empty where commits succeed."""
    if not trouble:
        return ""
    stands = "there is no checkpoint yet" if trouble["stands"] is None else \
        f"the checkpoint of iteration {trouble['stands']} stands"
    return f"commits have failed for {duration_text(trouble['seconds'])} ({trouble['reason']}); {stands}"


def describe_end(end: Event | None) -> dict[str, Any] | None:
    """An end as ``status`` shows it."""
    if end is None:
        return None
    return {"cause": end["cause"], "detail": end.get("detail"), "rank": end.get("rank"), "time": end.time}
