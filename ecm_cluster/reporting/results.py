"""What has been scored: one row for each checkpoint, set of settings and run; sorted, as a table, as CSV."""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base import files
from ..base.errors import UserError, one_of
from ..base.reading import Unreadable, read_text
from ..chain import evaluations
from ..console import cli
from ..job import eval_settings
from ..rundir.run import Evaluation, Run
from ..scoring.metrics import LINE, names
from . import tables
from .tables import aligned, percent

MOST_SHOWN = 5  # columns for the results of a dataset's own evaluation


@dataclass(frozen=True)
class Row:
    """One set of figures.

    Attributes:
        document: What ``metrics.json`` of ``work`` holds.
    """

    run: Run
    work: Evaluation
    document: dict[str, Any]

    @property
    def provenance(self) -> dict[str, Any]:
        return self.document["provenance"]

    @property
    def settings(self) -> dict[str, Any]:
        """What was varied; older files list other keys there, which are ignored."""
        return {k: v for k, v in (self.provenance.get("settings") or {}).items() if k in eval_settings.SETTINGS}

    @property
    def file(self) -> Path:
        """The file that holds the document."""
        return self.work.metrics_file(evaluations.scoring_variant(eval_settings.split(self.settings)[1]))

    def figure(self, name: str) -> float | None:
        """A figure by a name such as ``segm_AP``; None if it is undefined or missing."""
        kind, _, figure = name.partition("_")
        return (self.document["figures"].get(kind) or {}).get(figure)


def rows(run: Run) -> list[Row]:
    """Everything that a run has been scored for, by iteration."""
    found = [Row(run, work, document) for work in run.evaluations() for document in work.all_metrics()]
    return sorted(found, key=lambda row: (row.provenance.get("iteration", 0), eval_settings.label(row.settings)))


def metric_name(asked: str | None, found: Sequence[Row]) -> str:
    """The full name of a metric: ``APr`` is that of masks if there are masks.

    Raises:
        UserError: No row has it.
    """
    known = list(dict.fromkeys(f"{kind}_{name}" for row in found for kind, figures in row.document["figures"].items()
                               for name in figures))
    given = (asked or "AP").replace("/", "_")
    for candidate in (given, f"segm_{given}", f"bbox_{given}"):
        if candidate in known or not known:
            return candidate
    if asked is None:  # several datasets that differ, or figures of a dataset's own evaluation
        return next((name for name in known if name.endswith(("_AP", "_mAP"))), known[0])
    raise one_of("metric", given, known)


def ranked(found: Sequence[Row], metric: str) -> list[Row]:
    """The best first; rows without the metric last."""
    return sorted(found, key=lambda row: (row.figure(metric) is None, -(row.figure(metric) or 0.0)))


def best(run: Run, metric: str | None = None) -> Row:
    """The best row of a run.

    Raises:
        UserError: Nothing is scored, or nothing has such a metric.
    """
    found = rows(run)
    if not found:
        raise UserError(f"RUN: {run.name} has no scores yet; `python -m ecm_cluster.evaluate` scores it")
    return ranked(found, metric_name(metric, found))[0]


def table(found: Sequence[Row]) -> str:
    """One line a row, percent with one decimal; the run only where there are several."""
    shown = list(dict.fromkeys((kind, name) for row in found for kind, figures in row.document["figures"].items()
                               for name in (names(LINE) if "AP" in figures else list(figures)[:MOST_SHOWN])))
    several = len({row.run.path for row in found}) > 1
    header = [*(["run"] if several else []), "checkpoint", "settings", *(f"{kind} {name}" for kind, name in shown)]
    lines = []
    for row in found:
        place = f"iter {row.provenance['iteration']}"
        cells = [percent(row.figure(f"{kind}_{name}")) for kind, name in shown]
        lines.append([*([row.run.name] if several else []), place, eval_settings.label(row.settings), *cells])
    return aligned(header, lines, left=len(header) - len(shown))


def table_of(found: Sequence[Row]) -> str:
    """The table of everything that a run is scored for; of a single set of figures its own table."""
    if len(found) == 1:
        with contextlib.suppress(OSError, Unreadable):
            return read_text(found[0].work.metrics_file(suffix="txt")).rstrip()
    return table(found) if found else ""


def as_csv(found: Sequence[Row]) -> str:
    """Every figure, unrounded, with what was varied in a column each."""
    varied = list(dict.fromkeys(name for row in found for name in row.settings))
    figures = list(dict.fromkeys(f"{kind}_{name}" for row in found for kind, values in row.document["figures"].items()
                                 for name in values))
    lines: list[list[Any]] = [["run", "checkpoint", "iteration", "epoch", *varied, *figures, "metrics_file"]]
    for row in found:
        p = row.provenance
        lines.append([row.run.name, p["checkpoint"], p["iteration"], p.get("epoch"), *map(row.settings.get, varied),
                      *map(row.figure, figures), row.file])
    return tables.as_csv(lines)


def as_records(found: Sequence[Row]) -> list[dict[str, Any]]:
    """For ``--json``: provenance and figures of each row."""
    return [{"run": row.run.name, "settings": row.settings,
             **{k: row.provenance.get(k) for k in ("checkpoint", "iteration", "epoch", "checkpoint_digest")},
             "figures": row.document["figures"], "folder": str(row.work.path)} for row in found]


def keep(run: Run) -> None:
    """Write everything a run is scored for as CSV into its directory, if that is writable."""
    if not run.is_own or not (found := rows(run)):
        return
    try:
        files.write_text(run.results_file, as_csv(found))
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):
            cli.say(f"warning: {run.results_file} could not be written ({error.strerror})", sys.stderr)
