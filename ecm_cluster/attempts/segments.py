"""What a start of a job did with the time that it held its GPUs: consecutive segments, each with its cause.

A segment begins where the one before it ends, the first where the start begins, and the last ends where it ends; so
the sum of all causes is the time held, also if records are missing. Moments by the clock of another node than rank 0's
are moved into the interval, never compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..base.reading import fits
from ..rundir.ledger import Event
from ..rundir.records import SECONDS
from ..rundir.run import Work
from .history import AttemptRecord, events_of
from .holds import Hold

PRODUCTIVE, REDONE, STAGING, START_UP, SAVING = "productive", "redone", "staging", "start-up", "saving"
HUNG, EVALUATION, NOT_STARTED, IDLE = "hung", "evaluation", "not started", "idle"
CAUSES = (PRODUCTIVE, REDONE, STAGING, START_UP, SAVING, HUNG, EVALUATION, NOT_STARTED, IDLE)
OF_PHASE = {"staging": STAGING, "waiting for data": STAGING, "starting": START_UP, "first iteration": START_UP}
OVER = ("stopped", "failed", "ended")  # phases in which nothing is trained any more
Mark = tuple  # (time, cause): the cause holds until the next mark
Span = tuple  # (begin, end)


@dataclass(frozen=True)
class Segment:
    """A part of the time that a start of a job held.

    Attributes:
        attempt: Of the training; None for what belongs to none.
    """

    begin: float
    end: float
    kind: str
    gpus: int
    attempt: int | None = None

    @property
    def seconds(self) -> float:
        """GPU seconds."""
        return (self.end - self.begin) * self.gpus


def of_hold(hold: Hold) -> tuple[list[Segment], bool]:
    """The segments of one start, and whether one of their boundaries is estimated."""
    if hold.evaluates or not hold.attempts:
        kind = EVALUATION if hold.evaluates else NOT_STARTED
        return partition(hold.begin, hold.end, [(hold.begin, kind)], hold.gpus, None), hold.estimated
    found: list[Segment] = []
    estimated, begin = hold.estimated, hold.begin
    for (work, record), following in itertools.zip_longest(hold.attempts, hold.attempts[1:]):
        end = min(max(begin, following[1].begin if following else hold.end), hold.end)
        marks, guessed = marks_of(work, record, events_of(work, record.number))
        found += partition(begin, end, marks, hold.gpus, record.number)
        begin, estimated = end, estimated or guessed
    return found, estimated


def partition(begin: float, end: float, marks: Iterable[Mark], gpus: int, attempt: int | None) -> list[Segment]:
    """Segments from begin to end without gap or overlap; marks outside of them, or out of order, are moved."""
    found, since, cause = [], begin, START_UP
    for when, following in [*marks, (end, IDLE)]:
        until = min(max(since, when), end)
        if until > since:
            found.append(Segment(since, until, cause, gpus, attempt))
        since, cause = until, following
    return found


def marks_of(work: Work, record: AttemptRecord, events: Sequence[Event]) -> tuple[list[Mark], bool]:
    """What an attempt did from when on, and whether that is estimated: an earlier version recorded no phases."""
    phases = [e for e in events if e.kind == "phase"]
    over = record.end if record.end is not None else record.seen
    trained = next((e.time for e in phases if e["phase"] == "training"), None)
    stopped = next((e.time for e in phases if e["phase"] in OVER), over)
    stopped = over if record.cause == "hung" else min(stopped, over)
    saved = saving(events)
    iterations = (record.last or 0) - (record.first or 0)
    if phases:
        marks = [(e.time, OF_PHASE[e["phase"]]) for e in phases if e["phase"] in OF_PHASE and e.time < stopped]
        began = None if trained is None else _first_iteration(record, phases, trained, stopped, saved)
    else:
        marks = [mark for e in events if e.kind == "staged"
                 for mark in ((e.time - e["seconds"] - e["waited"], STAGING), (e.time, START_UP))]
        began = _estimated_begin(record, events, work.heartbeat(record.number) or {}, iterations)
    if began is not None:
        progress = stopped - _silence(events) if record.cause == "hung" else stopped
        kept = max(0, iterations - record.lost) / iterations if iterations > 0 else 0.0
        marks = [mark for mark in marks if mark[0] < began] + training(began, max(began, progress), saved, kept)
    if record.cause == "hung":
        marks.append((max(stopped - _silence(events), marks[-1][0] if marks else record.begin), HUNG))
    return [*marks, (stopped, IDLE)], not phases


def training(begin: float, end: float, saved: Sequence[Span], kept: float) -> list[Mark]:
    """The marks of a training: its first part counts, as much as it kept; what later attempts did again does not."""
    pauses = [(max(begin, a), min(end, b)) for a, b in saved if a < end and b > begin]
    bounds = [begin, *(moment for pause in pauses for moment in pause), end]
    trained = list(zip(bounds[::2], bounds[1::2]))
    left = kept * sum(b - a for a, b in trained)
    marks: list[Mark] = []
    for a, b in trained:
        counts = min(left, b - a)
        marks += [(a, PRODUCTIVE)] if counts > 0 else []
        marks += [(a + counts, REDONE)] if kept < 1 and counts < b - a else []
        marks += [(b, SAVING)] if b < end else []
        left -= counts
    return marks


def saving(events: Iterable[Event]) -> list[Span]:
    """When commits blocked the training, in order and without overlap.

    A commit is recorded once it is written. Before that the training was blocked by the copy; and by the writing, where
    it waited for it.
    """
    spans: list[Span] = []
    for event in events:
        if event.kind == "commit":
            wrote, blocked, waited = (event.get(name) or 0.0 for name in (
                "write_seconds", "blocked_seconds", "waited_seconds"))
            spans += [(event.time - wrote - blocked, event.time - wrote), (event.time - waited, event.time)]
    merged: list[Span] = []
    for begin, end in sorted(span for span in spans if span[1] > span[0]):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def _first_iteration(record: AttemptRecord, phases: Iterable[Event], trained: float, stopped: float,
                     saved: Sequence[Span]) -> float:
    """When the first iteration began: as long before its end as the later ones took; what it took longer is start-up.

    Args:
        trained: When the first iteration was done.
    """
    earliest = next((e.time for e in phases if e["phase"] == "first iteration"), trained)
    done = next((e.get("iteration") for e in phases if e["phase"] == "training"), None)
    if done is None or record.last is None or record.first is None or record.last <= done:
        return earliest
    blocked = sum(max(0.0, min(b, stopped) - max(a, trained)) for a, b in saved)
    pace = max(0.0, stopped - trained - blocked) / (record.last - done)
    return min(max(earliest, trained - pace * (done - record.first)), trained)


def _estimated_begin(record: AttemptRecord, events: Sequence[Event], beat: dict[str, Any],
                     iterations: int) -> float | None:
    """When an attempt began to train that recorded no phases: from its pace back to its first iteration."""
    if iterations <= 0:
        return None
    first, pace = record.first or 0, beat.get("seconds_per_iteration")
    if pace and fits(beat.get("time"), SECONDS) and beat.get("iteration"):
        return max(record.begin, beat["time"] - (beat["iteration"] - first) * pace)
    commits = [(e.time, e["iteration"]) for e in events
               if e.kind == "commit" and isinstance(e.get("iteration"), int)]
    if len(commits) > 1 and commits[-1][1] > commits[0][1]:
        pace = (commits[-1][0] - commits[0][0]) / (commits[-1][1] - commits[0][1])
        return max(record.begin, commits[0][0] - (commits[0][1] - first) * pace)
    return max((e.time for e in events if e.kind == "staged"), default=record.begin)


def _silence(events: Iterable[Event]) -> float:
    """Seconds without progress before a watchdog ended the attempt."""
    return max((e["silence"] for e in events if e.kind == "end" and fits(e.get("silence"), SECONDS)), default=0.0)
