"""Scores on the page: over checkpoints, of each class, and of several runs beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..job import eval_settings
from ..reporting import results
from ..reporting.tables import percent
from ..rundir.run import Run
from .drawing import curves, scales
from .drawing.charts import Chart, Line

KINDS = {"segm": "mask", "bbox": "box"}  # in the order in which they are shown, as LVIS does
BY_GROUP = ("AP", "APr", "APc", "APf")
COLOURS = {"AP": "t", "APr": "r", "APc": "c", "APf": "f"}


@dataclass(frozen=True)
class Scores:
    """Everything that a run is scored for, by iteration."""

    rows: tuple[results.Row, ...]

    @property
    def usual(self) -> list[results.Row]:
        """One row for each checkpoint, as configured."""
        return list({row.provenance["iteration"]: row for row in self.rows if not row.settings}.values())

    @property
    def main(self) -> results.Row | None:
        """What stands on top: of the last checkpoint that is scored, preferably as configured."""
        return max(self.rows, key=lambda row: (row.provenance["iteration"], not row.settings), default=None)

    @property
    def kinds(self) -> list[str]:
        """The kinds of overlap, masks first; others are a dataset's own figures."""
        found = list(dict.fromkeys(kind for row in self.rows for kind in row.document["figures"]))
        return [k for k in KINDS if k in found] + [k for k in found if k not in KINDS]


def of(run: Run) -> Scores:
    return Scores(tuple(results.rows(run)))


def word(kind: str) -> str:
    """A kind of overlap as it is called: ``mask``, ``box``, ``mask, fixed``; another as it is."""
    name, _, variant = kind.partition("-")
    return f"{KINDS[name]}{variant and ', ' + variant}" if name in KINDS else kind


def names(kind: str, found: Sequence[results.Row]) -> list[str]:
    """The figures of one kind that are worth a column."""
    known = list(dict.fromkeys(name for row in found for name in row.document["figures"].get(kind, {})))
    first = [name for name in ("AP", "APr", "APc", "APf", "AP50", "AP75", "APs", "APm", "APl") if name in known]
    return first or known[:results.MOST_SHOWN]


def tiles(scores: Scores) -> list[dict[str, str]]:
    """The figures on top: of masks, with those of boxes below."""
    row = scores.main
    if row is None or not scores.kinds:
        return []
    first, others = scores.kinds[0], scores.kinds[1:]
    shown = [name for name in BY_GROUP if name in row.document["figures"].get(first, {})] or names(first, [row])[:4]
    return [{"name": name, "kind": word(first), "value": percent(row.figure(f"{first}_{name}")),
             "below": ", ".join(f"{word(kind)} {percent(row.figure(f'{kind}_{name}'))}" for kind in others
                                if name in row.document["figures"].get(kind, {}))} for name in shown]


def over_checkpoints(scores: Scores, kind: str) -> Chart | None:
    """AP, APr, APc and APf over the checkpoints that are scored as configured; None for less than two."""
    found = scores.usual
    shown = [name for name in names(kind, found) if name in BY_GROUP] or names(kind, found)[:4]
    lines = {name: [(row.provenance["iteration"], 100 * value) for row in found
                    if (value := scales.plain(row.figure(f"{kind}_{name}"))) is not None] for name in shown}
    return _chart(f"{word(kind).capitalize()} AP over checkpoints", {k: v for k, v in lines.items() if v},
                  shown, "AP")


def of_several(found: Mapping[str, Scores], kind: str, name: str) -> Chart | None:
    """One figure of several runs over their checkpoints."""
    lines = {run: [(row.provenance["iteration"], 100 * value) for row in scores.usual
                   if (value := scales.plain(row.figure(f"{kind}_{name}"))) is not None]
             for run, scores in found.items()}
    return _chart(f"{word(kind).capitalize()} {name} over checkpoints", {k: v for k, v in lines.items() if v},
                  list(found), name)


def _chart(title: str, lines: Mapping[str, list[Any]], order: Sequence[str], unit: str) -> Chart | None:
    if max(map(len, lines.values()), default=0) < 2:
        return None
    x = scales.exact("iteration", [place for line in lines.values() for place, _ in line], 6)
    y = scales.linear(f"{unit}, %", [value for line in lines.values() for _, value in line], zero=True)
    dots = {name: tuple((x.at(a), y.at(b), f"{name} {b:.1f} at iteration {a}") for a, b in line)
            for name, line in lines.items()}
    drawn = tuple(Line(name, curves.path(line, x, y), order.index(name), COLOURS.get(name, ""),
                       last=f"{line[-1][1]:.1f}", dots=dots[name]) for name, line in lines.items())
    said = " ".join(f"{name}: {', '.join(f'{value:.1f} at {place}' for place, value in line[-6:])}."
                    for name, line in lines.items())
    return Chart(title, x, y, drawn, f"{title}. {said}")


def table(scores: Scores) -> list[dict[str, Any]]:
    """One table for each kind of overlap: what is scored, the newest first."""
    tables = []
    for kind in scores.kinds:
        found = [row for row in reversed(scores.rows) if kind in row.document["figures"]]
        shown = names(kind, found)
        rows = [{"iteration": row.provenance["iteration"], "settings": eval_settings.label(row.settings),
                 "values": [percent(scales.plain(row.figure(f"{kind}_{name}"))) for name in shown],
                 "intervals": [_interval(row, kind, name) for name in shown]} for row in found]
        tables.append({"kind": word(kind), "names": shown, "rows": rows,
                       "varied": any(row.settings for row in found)})
    return tables


def _interval(row: results.Row, kind: str, name: str) -> str:
    """The confidence interval of a figure, if it was scored with a bootstrap."""
    bootstrap = row.document.get("bootstrap")
    for key in ("intervals", kind, name):
        bootstrap = bootstrap.get(key) if isinstance(bootstrap, dict) else None
    ends = [scales.plain(bootstrap.get(end)) for end in ("low", "high")] if isinstance(bootstrap, dict) else []
    return f"{percent(ends[0])} to {percent(ends[1])}" if ends and None not in ends else ""
