"""Goodput: how much of the time that a run's jobs held made progress that counts, and where the rest went (badput).

Goodput is the productive share of the time that the jobs of the training held. Evaluations do useful work, too; their
time is shown beside it, and does not count either way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..attempts import holds as held_times
from ..attempts import segments, waits
from ..attempts.history import AttemptRecord
from ..attempts.segments import EVALUATION, PRODUCTIVE, Segment
from ..base.errors import UserError
from ..base.units import duration_text
from ..console import layout
from ..rundir.run import Run
from .tolerant import TolerantRun

CAUSES = segments.CAUSES
HOUR = 3600.0
OF_CAUSE = {  # what each row of the table means
    PRODUCTIVE: "iterations that count",
    segments.REDONE: "iterations that were, or will be, done again",
    segments.STAGING: "copying data to the nodes",
    segments.START_UP: "setup, imports, rendezvous, building",
    segments.SAVING: "training blocked by commits",
    segments.HUNG: "without progress, until it was ended",
    EVALUATION: "all evaluation jobs",
    segments.NOT_STARTED: "starts that began no attempt",
    segments.IDLE: "from the end of the work until the job left",
}


@dataclass
class Account:
    """The time that jobs held, by cause.

    Attributes:
        estimated: Some moments were not on record, as an earlier version wrote fewer, or a node died.
        unit: ``GPU hours``, ``rank hours`` where the run trains on CPUs, or ``hours`` of several runs of both kinds.
        alive: A job still holds its GPUs; the account ends with its last sign of life.
    """

    run: str
    unit: str = "GPU hours"
    estimated: bool = False
    alive: bool = False
    segments: list[Segment] = field(default_factory=list)
    waits: list[waits.Wait] = field(default_factory=list)
    attempts: list[AttemptRecord] = field(default_factory=list)

    @property
    def seconds(self) -> dict[str, float]:
        """GPU seconds by cause; their sum is what the jobs held."""
        return _by_cause(self.segments)

    @property
    def held(self) -> float:
        """GPU seconds that the jobs held."""
        return sum(self.seconds.values())

    @property
    def goodput(self) -> float | None:
        """The productive share of what the training's jobs held; None where they held nothing yet."""
        found = self.seconds
        training = sum(found.values()) - found[EVALUATION]
        return found[PRODUCTIVE] / training if training > 0 else None

    def waiting(self) -> dict[str, float]:
        """Seconds in the queue, by what came before."""
        return {kind: sum(wait.end - wait.begin for wait in self.waits if wait.kind == kind) for kind in waits.KINDS}

    def as_dict(self) -> dict[str, Any]:
        """What ``status --json`` has of it."""
        return {**_shares(self), "attempts": [_attempt(self, record) for record in self.attempts],
                "segments": [{"begin": s.begin, "end": s.end, "kind": s.kind, "attempt": s.attempt, "gpus": s.gpus}
                             for s in self.segments],
                "waits": [{"begin": w.begin, "end": w.end, "kind": w.kind} for w in self.waits]}


def account(run: Run, alive: bool | None = None) -> Account:
    """The account of one run.

    Args:
        alive: Whether the job of the training is alive, where the caller knows.
    """
    run = run if isinstance(run, TolerantRun) else TolerantRun(run.path)  # which reads each ledger once
    found = held_times.holds(run, alive)
    made = Account(run.name, unit_of(run))
    for hold in found:
        own, estimated = segments.of_hold(hold)
        made.segments += own
        made.estimated |= estimated
        made.alive |= hold.alive
        made.attempts += [record for work, record in hold.attempts if work is run]
    made.attempts.sort(key=lambda record: record.number)
    made.waits = waits.of(run, found)
    return made


def unit_of(run: Run) -> str:
    try:
        return "GPU hours" if run.job().device == "cuda" else "rank hours"
    except (UserError, OSError):
        return "GPU hours"


def total(accounts: Sequence[Account]) -> dict[str, Any]:
    """The sums over several runs, as :meth:`Account.as_dict` has them."""
    return {"runs": len(accounts), **_shares(merged(accounts))}


def merged(accounts: Sequence[Account]) -> Account:
    """One account of several runs."""
    units = {each.unit for each in accounts} or {"GPU hours"}
    return Account("total", units.pop() if len(units) == 1 else "hours", any(each.estimated for each in accounts),
                   any(each.alive for each in accounts), [s for each in accounts for s in each.segments],
                   [w for each in accounts for w in each.waits])


def _shares(one: Account) -> dict[str, Any]:
    seconds = one.seconds
    return {"unit": one.unit, "gpu_hours": {kind: seconds[kind] / HOUR for kind in CAUSES},
            "waiting_hours": {kind: value / HOUR for kind, value in one.waiting().items()},
            "held_gpu_hours": one.held / HOUR, "goodput": one.goodput, "estimated": one.estimated, "alive": one.alive}


def _by_cause(found: Iterable[Segment]) -> dict[str, float]:
    seconds = dict.fromkeys(CAUSES, 0.0)
    for segment in found:
        seconds[segment.kind] += segment.seconds
    return seconds


def _attempt(one: Account, record: AttemptRecord) -> dict[str, Any]:
    own = _by_cause(s for s in one.segments if s.attempt == record.number)
    return {"number": record.number, "begin": record.begin, "end": record.end, "cause": record.cause,
            "gpus": record.gpus, "estimated": record.estimated, "first": record.first, "last": record.last,
            "lost": record.lost, "gpu_hours": {kind: value / HOUR for kind, value in own.items() if value}}


# ---------------------------------------------------------------------------------------------- tables


def table(accounts: Sequence[Account], room: int | None = None) -> str:
    """Where the time went: of one run by cause; of several a row for each, then all of it by cause.

    Args:
        room: Cells in a line; None: any number.
    """
    if len(accounts) == 1:
        return _by_cause_table(accounts[0], room)
    whole = merged(accounts)
    _, shown = _in_unit(whole)
    rows = [[each.run, percent(each.goodput), shown(each.held), shown(each.seconds[PRODUCTIVE]),
             shown(each.seconds[EVALUATION]), _worst(each)] for each in accounts]
    header = ["run", "goodput", "held", PRODUCTIVE, EVALUATION, "most of the badput"]
    return "\n".join([*layout.table(header, rows, 1, room, prose=True), "", _by_cause_table(whole, room)])


def _by_cause_table(one: Account, room: int | None) -> str:
    seconds, (unit, shown) = one.seconds, _in_unit(one)
    rows = [[kind, shown(seconds[kind]), _percent(seconds[kind], one.held), OF_CAUSE[kind]]
            for kind in CAUSES if seconds[kind] or kind == PRODUCTIVE]
    rows.append(["held", shown(one.held), _percent(one.held, one.held), ""])
    return "\n".join([summary(one), *layout.table(["", unit, "share", ""], rows, 1, room, prose=True), *_queue(one)])


def summary(one: Account) -> str:
    """One line: the goodput, and what of it is not certain."""
    notes = [text for holds, text in ((one.alive, "so far"), (one.estimated, "estimated in part")) if holds]
    return f"goodput {percent(one.goodput)}" + (f" ({', '.join(notes)})" if notes else "")


def held_text(one: Account) -> str:
    """What the jobs held: ``37.5 GPU hours``."""
    unit, shown = _in_unit(one)
    return f"{shown(one.held)} {unit}"


def _worst(one: Account) -> str:
    bad = {kind: value for kind, value in one.seconds.items() if kind not in (PRODUCTIVE, EVALUATION) and value}
    kind = max(bad, key=lambda each: bad[each], default="")
    return f"{kind} {_percent(bad[kind], one.held - one.seconds[EVALUATION])}" if kind else ""


def _queue(one: Account) -> list[str]:
    text = ", ".join(f"{kind} {duration_text(seconds)}" for kind, seconds in one.waiting().items() if seconds >= 1)
    return [f"in the queue: {text}"] if text else []


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _percent(part: float, whole: float) -> str:
    return percent(part / whole if whole else None)


def _in_unit(one: Account) -> tuple[str, Callable[[float], str]]:
    """The unit of a table, and how it shows seconds: in hours, but not a short run as ``0.00``."""
    size, word = next(((size, word) for size, word in ((HOUR, "hours"), (60.0, "minutes")) if one.held >= 10 * size),
                      (1.0, "seconds"))
    return one.unit.replace("hours", word), lambda seconds: f"{seconds / size:.1f}"
