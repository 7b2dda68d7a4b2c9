"""The attempts of a run or an evaluation, one record each: when, where, how far, why it ended.

Made for showing, so nothing that is missing or damaged is an error: an earlier version did not write all of it, and an
attempt that was killed recorded no end. Times are those of the node that rank 0 was on, as far as that recorded them.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..base import fileserver
from ..base.errors import UserError
from ..base.reading import fits
from ..rundir.ledger import Event
from ..rundir.paths import CHECKPOINT
from ..rundir.records import COUNT, TIME
from ..rundir.run import Run, Work
from . import endings
from .starts import start_of

SILENT_SECONDS = 60.0  # without a heartbeat: then an attempt that recorded no end is taken for dead
FOUND_LATER = "closer."  # begins the name of a writer that recorded an end which it only found, at its own time
# writers whose events are signs of life; verbs write for an attempt that has long ended, and so do later starts
OF_THE_ATTEMPT = re.compile(r"(task|train|evaluate|staging)[0-9]+|phases|machine|batch\..*")


@dataclass(frozen=True)
class AttemptRecord:
    """One attempt.

    Attributes:
        begin, end: Seconds since the epoch; ``end`` is None while it is alive.
        seen: Its last sign of life.
        estimated: Its end was recorded by nobody: ``end`` is its last sign of life.
        hosts: Of its ranks, rank 0's first.
        gpus: Its ranks, each of which has a GPU where the run trains on GPUs.
        start: Identity of the start of a job that it belongs to, ``CLUSTER:JOB:RESTART``.
        cause, detail: Why it ended; None while it is alive.
        rank: Of the process that failed, if one did.
        first: The iteration that it resumed after.
        source: The attempt whose checkpoint it resumed from; None if it began the training.
        last: The iteration that it reached.
        committed: The iteration of its last checkpoint; None if it committed none.
        lost: Iterations of it that no longer count: later attempts resumed before them, or will.
    """

    number: int
    begin: float
    end: float | None = None
    seen: float = 0.0
    estimated: bool = False
    hosts: tuple[str, ...] = ()
    gpus: int = 1
    job_id: str | None = None
    restart: int = 0
    start: str = ""
    cause: str | None = None
    detail: str | None = None
    rank: int | None = None
    first: int | None = None
    source: int | None = None
    last: int | None = None
    committed: int | None = None
    lost: int = 0

    @property
    def alive(self) -> bool:
        return self.end is None

    @property
    def gained(self) -> int:
        """Iterations of it that count."""
        return max(0, (self.last or 0) - (self.first or 0) - self.lost)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "hosts": list(self.hosts)}


def history(work: Work, alive: bool | None = None) -> list[AttemptRecord]:
    """All attempts of a run or of an evaluation, in their order.

    Args:
        alive: Whether the newest one's job is alive, where the caller knows; else its heartbeat tells.
    """
    by_attempt: dict[int, list[Event]] = {}
    for event in events_of(work):
        by_attempt.setdefault(event.attempt, []).append(event)
    numbers = work.attempts()
    found = fileserver.each(lambda number: _record(
        work, number, by_attempt.get(number, []), number == numbers[-1] and alive is not False, alive), numbers)
    return _with_lost(_with_unrecorded(found)) if isinstance(work, Run) else found


def events_of(work: Work, attempt: int | None = None) -> list[Event]:
    """The events of a ledger, or those of one attempt, as far as it can be read."""
    try:
        return work.events(attempt)
    except (UserError, OSError):
        return [e for e in work.events_noted() if attempt in (None, e.attempt)]


def _record(work: Work, number: int, events: Sequence[Event], may_live: bool, lives: bool | None) -> AttemptRecord:
    taken = _taken(work, number, events)
    # the phase that a supervisor writes last says as much
    beat = {} if any(e.kind == "phase" and e["phase"] == "ended" for e in events) else _heartbeat(work, number)
    signs = [e.time for e in events if OF_THE_ATTEMPT.fullmatch(e.writer)]
    signs += [beat["time"]] if "time" in beat else []
    begin: float = taken["time"] if fits(taken.get("time"), TIME) else min(signs) if signs else _changed(work, number)
    alive = may_live and endings.last_end(list(events), number) is None and not _is_complete(events) \
        and (bool(lives) or _is_fresh(work, number))
    job_id, world = taken.get("job_id"), taken.get("world_size")
    starts = sorted((e for e in events if e.kind == "start"), key=lambda e: e["rank"])
    hosts = dict.fromkeys([*filter(None, [taken.get("host")]), *(e["host"] for e in starts)])
    return AttemptRecord(
        number, begin, seen=max([begin, *signs]), hosts=tuple(hosts), start=start_of(taken),
        gpus=world if fits(world, COUNT) and world else max(1, len(starts)),
        job_id=None if job_id is None else str(job_id), restart=int(taken.get("restart") or 0),
        **({} if alive else _ending(number, events, begin, signs)), **_iterations(work, number, taken, events, beat))


def _taken(work: Work, number: int, events: Iterable[Event]) -> dict[str, Any]:
    """The record of an attempt's begin: from the ledger, else from its file; empty where that is damaged."""
    event = next((e for e in events if e.kind == "attempt"), None)
    if event is not None:
        return {**event.fields, "time": event["begin"]}
    try:
        return work.read_attempt(number)
    except (UserError, OSError) as error:
        work.note(error)
    return {}


def _heartbeat(work: Work, number: int) -> dict[str, Any]:
    beat = work.heartbeat(number) or {}
    if not fits(beat.get("time"), TIME):
        beat.pop("time", None)
    return beat


def _is_complete(events: Iterable[Event]) -> bool:
    return any(e.kind == "complete" for e in events)


def _is_fresh(work: Work, number: int) -> bool:
    """Whether an attempt has a heartbeat, or began, within the last minute.

    By the file server's clock; where that cannot be asked, as for another user's run, by this machine's.
    """
    silence = work.seconds_since_heartbeat(number)
    if silence is None:
        with contextlib.suppress(OSError):
            path = work.heartbeat_file(number)
            silence = time.time() - (path if path.exists() else work.attempt_file(number)).stat().st_mtime
    return silence is not None and silence < SILENT_SECONDS


def _changed(work: Work, number: int) -> float:
    with contextlib.suppress(OSError):
        return work.attempt_file(number).stat().st_mtime
    return 0.0


def _ending(number: int, events: Sequence[Event], begin: float, signs: Sequence[float]) -> dict[str, Any]:
    end = endings.last_end(list(events), number)
    done = next((e for e in events if e.kind == "complete"), None)
    if end is None and done is not None:  # killed between the two
        return {"end": max(begin, done.time), "cause": "complete", "detail": None}
    last = max([begin, *signs])
    if end is None:
        return {"end": last, "estimated": True, "cause": "lost", "detail": endings.ending(None).text}
    estimated = end.writer.startswith(FOUND_LATER)
    return {"end": last if estimated else max(begin, end.time), "estimated": estimated, "cause": end["cause"],
            "detail": end.get("detail"), "rank": end.get("rank")}


def _iterations(work: Work, number: int, taken: dict[str, Any], events: Sequence[Event],
                beat: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(work, Run):
        return {}
    name = CHECKPOINT.fullmatch(taken.get("from") or "")
    began = [e["iteration"] for e in events if e.kind == "phase" and e.get("iteration") is not None]
    first = int(name[1]) if name else min(began, default=0) if taken else None
    commits = [e["iteration"] for e in events
               if e.kind in ("commit", "complete") and fits(e.get("iteration"), COUNT)]
    reached = [e["iteration"] for e in events
               if e.kind in ("phase", "end", "commit-failed") and fits(e.get("iteration"), COUNT)]
    committed = max(commits, default=None)
    last = max([*commits, *reached, beat.get("iteration") or 0, first or 0])
    return {"first": first, "source": int(name[2]) if name else None, "committed": committed,
            "last": last if first is not None or last else None}


def _with_unrecorded(found: list[AttemptRecord]) -> list[AttemptRecord]:
    """With the commits of workers that were killed before they recorded them: a later attempt resumed from there."""
    resumed: dict[int, int] = {}
    for record in found:
        if record.source is not None and record.first is not None:
            resumed[record.source] = max(record.first, resumed.get(record.source, 0))
    return [replace(r, committed=max(r.committed or 0, resumed[r.number]), last=max(r.last or 0, resumed[r.number]))
            if r.number in resumed else r for r in found]


def _with_lost(found: list[AttemptRecord]) -> list[AttemptRecord]:
    """With the iterations of each attempt that later ones did again, or will, as it ended after its last checkpoint."""
    counted, stands = [], None
    for record in reversed(found):
        if stands is None and record.end is not None and record.cause != "complete":
            stands = record.committed if record.committed is not None else record.first
        lost = 0 if stands is None or record.last is None else max(0, record.last - max(stands, record.first or 0))
        counted.append(replace(record, lost=lost))
        if record.first is not None:
            stands = record.first if stands is None else min(stands, record.first)
    return counted[::-1]
