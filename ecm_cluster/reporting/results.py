"""What has been scored: one row for each checkpoint, set of settings and run; sorted, as a table, as CSV."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base import files
from ..base.errors import UserError, one_of
from ..chain import evaluations
from ..console import cli, layout
from ..job import eval_settings
from ..rundir.run import Evaluation, Run
from ..scoring import metrics
from ..scoring.metrics import LINE, names
from . import tables
from .tables import percent

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


def known_metrics(found: Sequence[Row]) -> list[tuple[str, str]]:
    """Kind and name of every metric that a row has, in the order in which they are shown."""
    known = dict.fromkeys((kind, name) for row in found for kind, figures in row.document["figures"].items()
                          for name in figures)
    return [each for kind in metrics.kinds(kind for kind, _ in known) for each in known if each[0] == kind]


def metric_name(asked: str | None, found: Sequence[Row]) -> str:
    """The full name of a metric: ``APr`` is that of masks if there are masks.

    Raises:
        UserError: No row has it.
    """
    known = known_metrics(found)
    if asked is None:  # several datasets that differ, or figures of a dataset's own evaluation have none of that name
        usual = [each for each in known if each[1] == "AP"] or [each for each in known if each[1].endswith("_mAP")]
        return "_".join((usual or known or [("bbox", "AP")])[0])
    return "_".join(_meant("metric", asked, known)[0]) if known else asked.replace("/", "_")


def in_words(metric: str) -> str:
    """A metric by its full name, as tables name it."""
    kind, _, name = metric.partition("_")
    return metrics.in_words(kind, name)


def columns(asked: str | None, found: Sequence[Row]) -> list[tuple[str, str]]:
    """Kind and name of the metrics in a table: those asked for, such as ``AP,segm_APr``, or the usual ones.

    Raises:
        UserError: No row has one of them.
    """
    known = known_metrics(found)
    if asked is None:
        of_kinds = {kind: [name for of, name in known if of == kind] for kind, _ in known}
        return [(kind, name) for kind, own in of_kinds.items()
                for name in (names(LINE) if "AP" in own else own[:MOST_SHOWN])]
    chosen = [each for word in asked.split(",") for each in _meant("columns", word, known)] if known else []
    return list(dict.fromkeys(chosen))


def _meant(option: str, word: str, known: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The metrics of a name with or without its kind, as JSON (``segm_APr``) or a table (``mask APr``) has it."""
    given = "_".join(word.replace("/", "_").split())
    found = [each for each in known
             if given in (each[1], "_".join(each), metrics.in_words(*each).replace(" ", "_"))]
    if not found:
        raise one_of(option, word.strip(), ["_".join(each) for each in known])
    return found


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


def table(found: Sequence[Row], asked: str | None = None) -> str:
    """One line a row, percent with one decimal; the run only where there are several.

    A terminal that is too narrow gets a table for each kind of overlap, and if need be several.

    Args:
        asked: The metrics to show; see :func:`columns`.
    """
    shown, room = columns(asked, found), layout.width()
    several = len({row.run.path for row in found}) > 1
    left = [*(["run"] if several else []), "checkpoint", "settings"]
    first = [[*([row.run.name] if several else []), f"iter {row.provenance['iteration']}",
              eval_settings.label(row.settings)] for row in found]

    def part(which: Sequence[tuple[str, str]], words: Sequence[str]) -> tuple[list[str], list[list[str]]]:
        return [*left, *words], [[*cells, *(percent(row.figure("_".join(each))) for each in which)]
                                 for cells, row in zip(first, found)]

    whole = layout.table(*part(shown, [metrics.in_words(*each) for each in shown]), len(left))
    if room is None or max(map(layout.cells, whole)) <= room:
        return "\n".join(whole)
    texts = []
    for kind in metrics.kinds(kind for kind, _ in shown):
        of_kind = [each for each in shown if each[0] == kind]
        lines = [_narrow(*each, len(left), room) for each in
                 tables.in_parts(*part(of_kind, [name for _, name in of_kind]), len(left), room)]
        texts += [f"{metrics.in_words(kind)}\n{text}" for text in lines]
    return "\n\n".join(texts)


def _narrow(header: list[str], rows: list[list[str]], left: int, room: int) -> str:
    """A table whose first columns are one where they would not fit."""
    lines = layout.table(header, rows, left)
    if max(map(layout.cells, lines)) > room:
        header, *rows = [[", ".join(row[:left]), *row[left:]] for row in (header, *rows)]
        lines = layout.table(header, rows, 1, room)
    return "\n".join(lines)


def table_of(found: Sequence[Row]) -> str:
    """The table of everything that a run is scored for; of a single set of figures its own table."""
    return tables.metrics_table(found[0].document, layout.width()) if len(found) == 1 else table(found) if found else ""


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
