"""The attempts of a run, a line each, and what happened besides."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..attempts import causes
from ..attempts.history import AttemptRecord, history
from ..backends import choose
from ..base.units import duration_text
from ..reporting import timeline
from ..rundir.run import Run

SHORT = "%Y-%m-%d %H:%M"
MOST_EVENTS = 400  # the rest, in the middle, is counted
FOLDED = ("commit", "start", "end", "phase")  # the table of attempts has these


@dataclass(frozen=True)
class Attempt:
    """A line of the table."""

    number: int
    began: str
    lasted: str
    iterations: str
    lost: str
    where: str
    cause: str
    detail: str
    kind: str


def clock(seconds: float | None, form: str = SHORT) -> str:
    """A time of the ledger, in the time zone of this machine."""
    try:
        return time.strftime(form, time.localtime(seconds)) if seconds else ""
    except (OverflowError, ValueError, OSError):
        return ""


def rows(run: Run) -> list[Attempt]:
    return [_attempt(record) for record in history(run)]


def _attempt(record: AttemptRecord) -> Attempt:
    cause = record.cause or "running"
    known = causes.CAUSES.get(cause)
    detail = record.detail or (known.text if known else "")
    rank = f", rank {record.rank}" if record.rank is not None and f"rank {record.rank}" not in detail else ""
    lasted = "" if record.end is None else ("about " if record.estimated else "") + span(record.end - record.begin)
    reached = "" if record.last is None else f"{record.first or 0} → {record.last}"
    hosts = list(record.hosts)
    where = ", ".join(hosts[:3]) + (f" and {len(hosts) - 3} more" if len(hosts) > 3 else "")
    kind = "good" if cause == "complete" else "busy" if record.cause is None else \
        "bad" if known is None or known.owner == "run" else "moved"
    return Attempt(record.number, clock(record.begin), lasted, reached, str(record.lost or ""), where, cause + rank,
                   detail, kind)


def span(seconds: float) -> str:
    """A duration in its two largest units: ``3 h 12 min``."""
    whole = int(max(seconds, 0))
    for large, small, names in ((86400, 3600, ("d", "h")), (3600, 60, ("h", "min")), (60, 1, ("min", "s"))):
        if whole >= large:
            rest = whole % large // small
            return f"{whole // large} {names[0]}" + (f" {rest} {names[1]}" if rest else "")
    return duration_text(seconds)


def events(run: Run) -> list[dict[str, str]]:
    """What happened, in words, by time; without what every attempt does."""
    found_rows = timeline.without_repeats(timeline.read(run))
    id_word = choose.of(run).id_word
    found = []
    for row in found_rows:
        text = timeline.describe(row, id_word)
        of_training = row["work"] == "train"
        if text and not (of_training and row["kind"] in FOLDED):
            found.append({"time": clock(row["time"]), "of": "training" if of_training else f"evaluation {row['work']}",
                          "attempt": str(row["attempt"] or ""), "text": text})
    return _shortened(found)


def _shortened(found: Sequence[Any]) -> list[Any]:
    if len(found) <= MOST_EVENTS:
        return list(found)
    half = MOST_EVENTS // 2
    gap = {"time": "", "of": "", "attempt": "", "text": f"({len(found) - MOST_EVENTS} more events)"}
    return [*found[:half], gap, *found[-half:]]


def commits(run: Run) -> str:
    """The checkpoints of a run in one sentence."""
    written = [event for event in run.events() if event.kind == "commit"]
    failed = sum(event.kind == "commit-failed" for event in run.events())
    if not written:
        return "No checkpoint was committed" + (f"; {failed} could not be" if failed else "") + "."
    seconds = [value for event in written if (value := event.get("write_seconds", event.get("seconds"))) is not None]
    mean = f", in {sum(seconds) / len(seconds):.1f} s each on average" if seconds else ""
    return (f"{len(written)} checkpoint{'s were' if len(written) > 1 else ' was'} committed{mean}"
            + (f"; {failed} could not be" if failed else "") + ".")
