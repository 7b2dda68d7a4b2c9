"""Average precision as plain text: percent with one decimal, a dash where a figure is undefined."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..console import layout
from ..scoring import metrics

UNDEFINED = "–"


def percent(value: float | None) -> str:
    """A fraction of one as percent."""
    return UNDEFINED if value is None else f"{100 * value:.1f}"


def metrics_table(document: Mapping[str, Any], room: int | None = None) -> str:
    """One row for each kind of overlap (bbox, segm), one column for each figure; its confidence interval, if known.

    The results of a dataset's own evaluation follow, one line per figure, unchanged.

    Args:
        document: content of ``metrics.json``, or what :func:`ecm_cluster.scoring.score.score` returns.
    """
    intervals = (document.get("bootstrap") or {}).get("intervals", {})
    names, rows = metrics.names(metrics.TABLE, document["max_dets"]), []
    own = {kind: figures for kind, figures in document["figures"].items() if "AP" not in figures}
    for kind in metrics.kinds(kind for kind in document["figures"] if kind not in own):
        figures = document["figures"][kind]
        rows.append([metrics.in_words(kind), *(percent(figures.get(name)) for name in names)])
        if kind in intervals:
            rows += [[f"  {end}", *(percent((intervals[kind].get(name) or {}).get(end)) for name in names)]
                     for end in ("low", "high")]
    lines = [aligned(*part, left=1) for part in in_parts(["", *names], rows, 1, room)] if rows else []
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
    return aligned(["class", "freq", "images", "instances", *(metrics.in_words(t, "AP") for t in iou_types)],
                   rows, left=2)


def scored_by_class(document: Mapping[str, Any]) -> list[str]:
    """The kinds of overlap that every class has an AP of."""
    return [kind for kind in metrics.kinds(document["figures"])
            if all(kind in row for row in document["per_class"])]


def _count(value: int | None) -> str:
    return UNDEFINED if value is None else f"{value}"


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], left: int, room: int | None = None) -> str:
    """Columns two spaces apart, the first ``left`` flush left, the others flush right."""
    return "\n".join(layout.table(header, rows, left, room))


def in_parts(header: Sequence[str], rows: Sequence[Sequence[str]], left: int, room: int | None,
             ) -> list[tuple[list[str], list[list[str]]]]:
    """A table as several, each with the columns that are flush left, and as many of the others as fit beside them.

    Where those flush left need more than a quarter of a line, a row takes two.
    """
    widths = [max(map(layout.cells, column)) + len(layout.GAP) for column in zip(header, *rows)]
    begin = sum(widths[:left]) if room is None else min(sum(widths[:left]), room // 4)
    used = begin
    parts: list[list[int]] = [[]]
    for at, of_column in enumerate(widths[left:], left):
        if parts[-1] and room is not None and used + of_column - len(layout.GAP) > room:
            parts.append([])
            used = begin
        parts[-1].append(at)
        used += of_column

    def of(row: Sequence[str], part: Sequence[int]) -> list[str]:
        return [*row[:left], *(row[at] for at in part)]

    return [(of(header, part), [of(row, part) for row in rows]) for part in parts]


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


def finite(value: Any) -> Any:
    """Replace numbers that JSON cannot represent by null, such as the loss of a training that diverged."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
