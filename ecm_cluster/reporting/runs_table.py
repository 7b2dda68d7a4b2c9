"""The table of runs, a line or two each: what ``status`` prints of several, in every width."""

from __future__ import annotations

from collections.abc import Sequence

from ..console import cli, layout
from ..scoring import metrics
from .run_state import RunState
from .tables import UNDEFINED, percent

WIDTH = 160  # where the output is not a terminal, and COLUMNS is not set
RIGHT = ("attempt", "iteration", "epoch", "loss")
OPTIONAL = ("epoch", "attempt", "loss", "APr")  # the least important first
COLORS = {"running": "green", "evaluating": "green", "done": "green", "complete": "cyan", "waiting": "cyan",
          "submitting": "yellow", "stopped": "yellow", "unknown": "yellow", "failed": "red", "unreadable": "red"}


def lines(states: Sequence[RunState], room: int | None = None, color: bool = False) -> list[str]:
    """The table.

    Args:
        room: Cells in a line.
    """
    kinds = kinds_of(states)
    header = ("run", "state", *RIGHT, *(metrics.in_words(kind, "AP") for kind in kinds), "APr", "why")
    rows = []
    for s in states:
        numbers = (str(s.attempt or ""), progress(s), "" if s.epoch is None else str(s.epoch),
                   "" if s.loss is None else f"{s.loss:.3f}")
        rows.append((s.run, s.state, *numbers, *aps(s, kinds), figure(s, "APr"), cli.as_typed(s.reason + s.expected)))
    return layout.table(header, rows, 2, room or WIDTH, prose=True, optional=OPTIONAL, rule=True,
                        paint=paint if color else None)


def paint(column: str, cell: str) -> str:
    if column == "why":
        return "yellow" if "warning:" in cell else ""
    return COLORS.get(cell, "") if column == "state" else ""


def progress(s: RunState) -> str:
    """``300/900``, or the part that is known."""
    if s.iteration is None:
        return ""
    return f"{s.iteration}/{s.iterations}" if s.iterations else str(s.iteration)


def kinds_of(states: Sequence[RunState]) -> list[str]:
    """The kinds of overlap that have a column: masks, boxes where a run has no masks, or both."""
    return metrics.kinds(kind for kind in map(kind_of, states) if kind) or ["segm"]


def aps(s: RunState, kinds: Sequence[str]) -> list[str]:
    """The cells of those columns."""
    return [figure(s, "AP") if kind == kind_of(s) else "" for kind in kinds]


def kind_of(s: RunState) -> str | None:
    """The kind of overlap whose scores are shown of a run: masks if it is scored by masks."""
    return next((kind for kind in metrics.KINDS if s.evaluation.get(f"{kind}_AP") is not None), None)


def figure(s: RunState, name: str) -> str:
    """A metric of that kind in percent; empty if the run has none."""
    kind = kind_of(s)
    key = f"{kind}_{name}"
    return percent(s.evaluation[key]) if key in s.evaluation else ""


def scores(s: RunState) -> str:
    """``mask AP 26.4, APr 18.0``, with what there is."""
    kind = kind_of(s)
    names = ["AP", *(metric.name for metric in metrics.METRICS if metric.frequency)]
    return ", ".join(f"{metrics.in_words(kind, name) if name == 'AP' else name} {figure(s, name)}"
                     for name in names if kind and figure(s, name) not in ("", UNDEFINED))
