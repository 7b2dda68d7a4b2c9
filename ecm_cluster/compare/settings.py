"""A group by its settings: the figures of each over its seeds, and which of its runs have none.

A run counts with the scores of its last checkpoint, once its training is complete: intermediate scores of one run
and the last of another cannot be compared.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..base.errors import UserError
from ..reporting import results
from ..reporting import state as states
from ..rundir import checkpoints
from ..rundir.run import Run
from ..scoring import metrics
from ..sweeps.axes import SEED
from ..sweeps.cells import Cell, label
from ..sweeps.group import Group

FIGURES = metrics.names(metrics.COMPARE)


@dataclass(frozen=True)
class Scored:
    """A run with the figures that count.

    Attributes:
        seed: As text; empty where the group varies none.
    """

    cell: Cell
    seed: str
    row: results.Row

    def figure(self, kind: str, name: str) -> float | None:
        value = self.row.figure(f"{kind}_{name}")
        return value if value is not None and math.isfinite(value) else None


@dataclass
class GroupSetting:
    """The runs that differ in their seed alone."""

    label: str
    runs: list[Scored] = field(default_factory=list)

    def values(self, kind: str, name: str) -> list[float]:
        return [value for one in self.runs if (value := one.figure(kind, name)) is not None]

    def mean(self, kind: str, name: str) -> float | None:
        found = self.values(kind, name)
        return statistics.fmean(found) if found else None

    def deviation(self, kind: str, name: str) -> float | None:
        """The standard deviation over seeds, with n - 1; None for a single one."""
        found = self.values(kind, name)
        return statistics.stdev(found) if len(found) > 1 else None


def collect(group: Group) -> tuple[list[GroupSetting], list[str]]:
    """The settings in the group's order, and a line for each run that is missing in them.

    Raises:
        UserError: Runs were scored on different annotations.
    """
    settings: dict[str, GroupSetting] = {}
    missing: list[tuple[Cell, Run | None]] = []
    for cell, run in group.members():
        own = settings.setdefault(label(cell.settings), GroupSetting(label(cell.settings)))
        row = _last_scores(run) if run is not None else None
        if row is None:
            missing.append((cell, run))
        else:
            own.runs.append(Scored(cell, cell.settings.get(SEED, ""), row))
    _check_annotations([one for setting in settings.values() for one in setting.runs])
    return list(settings.values()), _reasons(missing)


def _last_scores(run: Run) -> results.Row | None:
    try:
        last = checkpoints.last(run) if run.completion() is not None else None
        rows = results.rows(run) if last is not None else []
    except (UserError, OSError):
        return None
    return next((row for row in rows if last and row.provenance["iteration"] == last.iteration and not row.settings),
                None)


def _reasons(missing: Sequence[tuple[Cell, Run | None]]) -> list[str]:
    folded = iter(states.fold([run for _, run in missing if run is not None]))
    lines = []
    for cell, run in missing:
        state = next(folded) if run is not None else None
        why = "not submitted" if state is None else f"{state.state}: {state.reason}"
        if state is not None and state.state == "done":
            why = "its last checkpoint has no scores as configured"
        lines.append(f"{cell.name}: {why}")
    return lines


def _check_annotations(scored: Sequence[Scored]) -> None:
    first = next(iter(scored), None)
    for one in scored:
        if first and one.row.provenance.get("annotations_digest") != first.row.provenance.get("annotations_digest"):
            raise UserError(f"RUN: {first.cell.name} and {one.cell.name} were scored on different annotations "
                            f"({first.row.provenance.get('annotations')}, {one.row.provenance.get('annotations')}); "
                            "only scores on the same can be compared")


def kinds(settings: Sequence[GroupSetting]) -> list[str]:
    """The kinds of overlap that are scored, masks first."""
    return [kind for kind in metrics.KINDS if any(setting.values(kind, "AP") for setting in settings)]


def figures(settings: Sequence[GroupSetting], kind: str) -> list[str]:
    """The figures that any setting has; data without frequencies has AP alone."""
    return [name for name in FIGURES if any(setting.values(kind, name) for setting in settings)]


def differing_code(settings: Sequence[GroupSetting]) -> list[str]:
    """A note where the runs that are compared have not the same code."""
    digests = {str((run := one.row.run).overrides().code.get("digest") or run.spec.code.get("digest"))
               for setting in settings for one in setting.runs}
    return ["the runs do not all have the same code: it changed between their submissions"] if len(digests) > 1 else []
