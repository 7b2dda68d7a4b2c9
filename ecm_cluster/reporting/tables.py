"""Average precision as plain text: percent with one decimal, a dash where a figure is undefined."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..scoring import metrics

UNDEFINED = "–"


def percent(value: float | None) -> str:
    """A fraction of one as percent."""
    return UNDEFINED if value is None else f"{100 * value:.1f}"


def metrics_table(document: Mapping[str, Any]) -> str:
    """One row for each kind of overlap (bbox, segm), one column for each figure; its confidence interval, if known.

    The results of a dataset's own evaluation follow, one line per figure, unchanged.

    Args:
        document: content of ``metrics.json``, or what :func:`ecm_cluster.scoring.score.score` returns.
    """
    intervals = (document.get("bootstrap") or {}).get("intervals", {})
    names, rows = metrics.names(metrics.TABLE, document["max_dets"]), []
    own = {kind: figures for kind, figures in document["figures"].items() if "AP" not in figures}
    for kind, figures in document["figures"].items():
        if kind in own:
            continue
        rows.append([kind, *(percent(figures.get(name)) for name in names)])
        if kind in intervals:
            rows += [[f"  {end}", *(percent((intervals[kind].get(name) or {}).get(end)) for name in names)]
                     for end in ("low", "high")]
    lines = [aligned(["", *names], rows, left=1)] if rows else []
    lines += [aligned([kind, ""], [[name, f"{value:.4g}"] for name, value in figures.items()], left=1)
              for kind, figures in own.items()]
    lines += [f"@{number}: {part['annotations']}" for number, part in enumerate(document.get("parts", ()))]
    return "\n".join([*lines, *(f"note: {note}" for note in document.get("notes", ()))])


def per_class_table(document: Mapping[str, Any], limit: int | None = None) -> str:
    """One row for each class, those with the most training images first, those of unknown count last.

    With a limit, so many of the most frequent and so many of the rarest classes only.
    """
    iou_types = scored_by_class(document)
    classes = sorted(document["per_class"], key=lambda c: (-(c["image_count"] or 0), c["id"]))
    rows = [[c["name"], c["frequency"] or UNDEFINED, _count(c["image_count"]), _count(c["instance_count"]),
             *(percent(c[iou_type]) for iou_type in iou_types)] for c in classes]
    if limit is not None and len(rows) > 2 * limit:
        gap = [f"({len(rows) - 2 * limit} more)", *[""] * (3 + len(iou_types))]
        rows = [*rows[:limit], gap, *rows[len(rows) - limit:]]
    return aligned(["class", "freq", "images", "instances", *(f"{t} AP" for t in iou_types)], rows, left=2)


def scored_by_class(document: Mapping[str, Any]) -> list[str]:
    """The kinds of overlap that every class has an AP of."""
    return [kind for kind in document["figures"] if all(kind in row for row in document["per_class"])]


def _count(value: int | None) -> str:
    return UNDEFINED if value is None else f"{value}"


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """Columns two spaces apart, the first ``left`` flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths))]
        return "  ".join(padded).rstrip()

    return "\n".join(map(line, (header, *rows)))


def per_class_csv(document: Mapping[str, Any]) -> str:
    """Every class with its training counts and its AP as a fraction of one, unrounded; empty where undefined."""
    iou_types = scored_by_class(document)
    about = ("id", "name", "frequency", "image_count", "instance_count")
    rows = ([c[key] for key in (*about, *iou_types)] for c in document["per_class"])
    return as_csv([[*about, *(f"{t}_AP" for t in iou_types)], *rows])


def as_csv(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV; a figure that is None is left empty, the others are unrounded."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
