"""A group as ``status`` shows it: one line a run, with what is varied in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..console import cli, layout
from ..reporting import runs_table
from ..reporting.run_state import RunState
from ..reporting.tables import UNDEFINED
from ..scoring import metrics
from .cells import Cell, short_names
from .group import Group

NOT_SUBMITTED = "not submitted"
TO_READ = ("failed", "stopped", "unreadable", "unknown")  # states whose reason is shown


def lines(group: Group, folded: Sequence[RunState], room: int | None = None, color: bool = False) -> list[str]:
    """The table, and what to do about runs that are missing.

    Args:
        folded: The states of :meth:`Group.runs`.
        room: Cells in a line.
    """
    found = _rows(group, folded)
    names = short_names(group.varied)
    kinds = metrics.kinds(kind for _, s in found if s and (kind := runs_table.kind_of(s))) or ["segm"]
    counts = Counter(s.state if s else NOT_SUBMITTED for _, s in found)
    rows = [[cell.name, *(cell.settings.get(key, UNDEFINED) for key in names), *_cells(s, kinds)] for cell, s in found]
    header = ["run", *names.values(), "state", "iteration", *(metrics.in_words(kind, "AP") for kind in kinds), "APr"]
    said = [f"group {group.path}: {len(found)} runs, {', '.join(f'{n} {state}' for state, n in counts.items())}"]
    said += layout.table(header, rows, 2 + len(names), room or runs_table.WIDTH, optional=("APr",), rule=True,
                         paint=runs_table.paint if color else None)
    said += [line for cell, s in found if s and s.state in TO_READ
             for line in layout.wrapped(f"{cell.name}: {cli.as_typed(s.reason)}", room, "  ")]
    if NOT_SUBMITTED in counts:
        said.append("repeat the `submit` command to submit what is missing")
    return said


def as_dict(group: Group, folded: Sequence[RunState]) -> dict[str, Any]:
    """For ``--json``."""
    return {"group": group.name, "path": str(group.path), "varied": group.varied,
            "runs": [{"settings": dict(cell.settings), **(s.as_dict() if s else
                                                          {"run": cell.name, "state": NOT_SUBMITTED})}
                     for cell, s in _rows(group, folded)]}


def _rows(group: Group, folded: Sequence[RunState]) -> list[tuple[Cell, RunState | None]]:
    """Each cell with the state of its run; None where it is not submitted yet."""
    state_of = {state.run: state for state in folded if state.state != "submitting"}
    return [(cell, state_of.get(cell.name)) for cell in group.cells]


def _cells(s: RunState | None, kinds: Sequence[str]) -> list[str]:
    if s is None:
        return [NOT_SUBMITTED, *[""] * (2 + len(kinds))]
    own = runs_table.kind_of(s)
    return [s.state, runs_table.progress(s), *(runs_table.figure(s, "AP") if kind == own else "" for kind in kinds),
            runs_table.figure(s, "APr")]
