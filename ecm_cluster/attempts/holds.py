"""The time that the jobs of a run held their GPUs, one record for each start of a job.

A batch shell notes when a start begins and when it ends, the local driver the same of each job that it starts. Where
that is missing (an earlier version, a node that died), the attempts of the start say it, and the record says so.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from ..base import fileserver
from ..base.errors import UserError
from ..rundir.run import Run, Work
from . import starts
from .history import AttemptRecord, history

DATE = "%Y-%m-%dT%H:%M:%S%z"  # of a batch shell's note
LOCAL = "local"


@dataclass(frozen=True)
class Hold:
    """One start of a job.

    Attributes:
        begin, end: Seconds since the epoch, by the clock of the node that its batch shell ran on.
        estimated: One of the two is not on record, and taken from the signs of life of its attempts.
        alive: It has not ended; ``end`` is its newest sign of life.
        link: Of the chain: ``train``, or one that evaluates.
        gpus: GPUs held, one for each rank; ranks where the run does not use GPUs.
        queued: Whether it had to wait for Slurm.
        attempts: Those that it carried, in their order, and what they worked on.
    """

    job_id: str
    restart: int
    link: str
    begin: float
    end: float
    gpus: int
    estimated: bool = False
    alive: bool = False
    queued: bool = True
    attempts: tuple[tuple[Work, AttemptRecord], ...] = ()

    @property
    def evaluates(self) -> bool:
        return self.link != "train"


def holds(run: Run, alive: bool | None = None) -> list[Hold]:
    """All starts of all jobs of a run, by their beginnings.

    Args:
        alive: Whether the job of the training is alive, where the caller knows.
    """
    keys, works = starts.all_on_record(run), [run, *run.evaluations()]
    found = dict(zip(keys, fileserver.each(lambda key: _noted(run, *key), keys)))
    histories = fileserver.each(lambda work: history(work, alive if work is run else None), works)
    for work, records in zip(works, histories):
        for record in records:
            known = found.setdefault((record.job_id or "", record.restart), [])
            _add(run, known, work, record)
    complete = [_with_end(run, hold) for several in found.values() for hold in several
                if hold.attempts or hold.end or hold.queued]  # a local driver, which began too, holds nothing itself
    return sorted(complete, key=lambda hold: (hold.begin, hold.end))


def _noted(run: Run, job_id: str, restart: int) -> list[Hold]:
    """The holds of one file of notes; a process id may come back, and be the job id of two."""
    found: list[Hold] = []
    for note in starts.notes_on(run, job_id, restart):
        when = note.get("time") or _parsed(note.get("date"))
        if when is None:
            continue
        if note["kind"] == "begin" or not found:
            link = note["stage"] if note["stage"] != "chain" else "train"
            found.append(Hold(job_id, restart, link, when, 0.0, 0, queued=run.spec.cluster != LOCAL))
        if note["kind"] in ("end", "left"):
            found[-1] = replace(found[-1], end=max(when, found[-1].begin))
    return found


def _parsed(date: Any) -> float | None:
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        return datetime.strptime(date, DATE).timestamp()
    return None


def _add(run: Run, known: list[Hold], work: Work, record: AttemptRecord) -> None:
    """Add an attempt to the hold that it belongs to, of those of its start."""
    before = [i for i, hold in enumerate(known) if hold.begin <= record.begin + 1]
    if not known:
        link = "train" if work is run else "evaluate"
        known.append(Hold(record.job_id or "", record.restart, link, record.begin, 0.0, 0, estimated=True,
                          queued=not record.start.startswith(LOCAL)))
        before = [0]
    index = max(before, default=0)
    known[index] = replace(known[index], attempts=(*known[index].attempts, (work, record)))


def _with_end(run: Run, hold: Hold) -> Hold:
    records = [record for _, record in hold.attempts]
    gpus = max((record.gpus for record in records), default=0) or _asked(run, hold.link)
    if hold.end:
        return replace(hold, gpus=gpus)
    end = max((max(record.seen, record.end or 0.0) for record in records), default=hold.begin)
    lives = any(record.alive for record in records)
    return replace(hold, gpus=gpus, end=max(end, hold.begin), alive=lives, estimated=hold.estimated or not lives)


def _asked(run: Run, link: str) -> int:
    try:
        return run.job(link).world_size
    except (UserError, OSError):
        return 1
