"""Where the time of a run's jobs went: shares by cause, and a timeline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..reporting import goodput
from ..rundir.run import Run
from . import attempts
from .drawing import scales

COLUMNS = 1000  # of a timeline: what is narrower cannot be seen
HOUR, DAY = 3600.0, 86400.0
WORDS = {"first": "waited for the first start", "preempted": "waited after a preemption",
         "requeued": "waited after a requeue", "evaluation": "waited to be evaluated"}
STEPS = (60, 300, 600, 1800, HOUR, 2 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY, 30 * DAY, 120 * DAY)


@dataclass(frozen=True)
class CauseShare:
    """A cause with what it took; ``width`` in percent of the bar."""

    kind: str
    hours: str
    share: str
    width: float
    meaning: str


@dataclass(frozen=True)
class Strip:
    """A part of a lane of the timeline, in percent."""

    left: float
    width: float
    kind: str
    text: str


@dataclass(frozen=True)
class TimeUse:
    """Where the time went.

    Attributes:
        goodput: The productive share, in words.
        lanes: Of the timeline: the training, and the evaluations if there are any.
    """

    goodput: str
    held: str
    unit: str
    note: str
    shares: tuple[CauseShare, ...]
    lanes: tuple[tuple[str, tuple[Strip, ...]], ...]
    ticks: tuple[scales.Tick, ...]
    waiting: str


def css(kind: str) -> str:
    """The class of a cause in the style sheet."""
    return "k-" + kind.replace(" ", "-")


def of(run: Run) -> TimeUse | None:
    """None if no job of the run has held anything yet."""
    account = goodput.account(run)
    found = account.as_dict()
    held = found["held_gpu_hours"]
    if not held:
        return None
    shares = tuple(CauseShare(kind, hours_text(value), f"{100 * value / held:.1f} %", round(100 * value / held, 2),
                         goodput.OF_CAUSE.get(kind, "")) for kind, value in found["gpu_hours"].items() if value)
    parts = [*found["segments"], *({**wait, "kind": "waiting", "why": wait["kind"]} for wait in found.get("waits", ()))]
    begin, end = min(p["begin"] for p in parts), max(p["end"] for p in parts)
    own, scored = ([p for p in parts if ("evaluation" in (p["kind"], p.get("why"))) == of_scoring]
                   for of_scoring in (False, True))
    lanes = [(name, tuple(strips(each, begin, end))) for name, each in (("training", own), ("evaluation", scored))
             if each]
    note = "; ".join(["so far"] * found["alive"]
                     + ["estimated in part, as not every moment is on record"] * found["estimated"])
    waiting = ", ".join(f"{attempts.span(HOUR * hours)} {word.partition(' ')[2]}" for kind, word in WORDS.items()
                        if (hours := found["waiting_hours"].get(kind)) and HOUR * hours >= 1)
    return TimeUse(goodput.percent(found["goodput"]), hours_text(held), found["unit"], note, shares, tuple(lanes),
                   tuple(ticks(begin, end)), waiting)


def hours_text(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.1f}" if hours >= 10 else f"{hours:.2f}" if hours >= 0.1 else \
        f"{hours:.4f}"


def strips(parts: Sequence[dict[str, Any]], begin: float, end: float) -> Iterable[Strip]:
    """The parts of a lane, without those that are too narrow to be seen; of equal neighbours one."""
    span = max(end - begin, 1e-9)
    joined: list[dict[str, Any]] = []
    for part in sorted(parts, key=lambda p: (p["begin"], p["end"])):
        last = joined[-1] if joined and joined[-1]["end"] >= part["begin"] - span / COLUMNS else None
        unseen = part["end"] - part["begin"] < span / COLUMNS
        if last and (unseen or (last["kind"], last.get("attempt")) == (part["kind"], part.get("attempt"))):
            last["end"] = max(last["end"], part["end"])
        else:
            joined.append(dict(part))
    for part in joined:
        attempt = f", attempt {part['attempt']}" if part.get("attempt") else ""
        word = WORDS.get(part["why"], "waited") if "why" in part else part["kind"]
        length, since = attempts.span(part["end"] - part["begin"]), attempts.clock(part["begin"])
        yield Strip(round(100 * (part["begin"] - begin) / span, 2),
                    round(max(100 * (part["end"] - part["begin"]) / span, 0.05), 2), part["kind"],
                    f"{word}{attempt}: {length} from {since}")


def ticks(begin: float, end: float) -> Iterable[scales.Tick]:
    """Times since the begin, at most eight."""
    step = next((s for s in STEPS if (end - begin) / s <= 8), (end - begin) / 4)
    for number in range(int((end - begin) / step) + 1):
        yield scales.Tick(round(100 * number * step / max(end - begin, 1e-9), 2),
                          attempts.span(number * step) if number else attempts.clock(begin), number % 2 == 1)
