"""What the page about several runs shows: the same as for one, beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..console import cli
from ..reporting.results import Row
from ..reporting.tables import percent
from ..scoring.metrics import FREQUENCIES
from . import classes, scores, setup
from .drawing import charts, curves, scales
from .error_analysis import KINDS as ERRORS
from .subject import Subject

MOST_CHANGED = 8  # classes of each group, at both ends together


def values(found: list[Subject]) -> dict[str, Any]:
    """The variables of the template."""
    mains = {one.name: one.scores.main for one in found}
    scored = [(one.name, main) for one in found if (main := mains[one.name]) is not None]
    kinds = list(dict.fromkeys(kind for one in found for kind in one.scores.kinds))
    trainings = {one.name: one.training for one in found}
    others = list(dict.fromkeys(series.name for one in found for series in one.training.others))
    return {
        "runs": found, "reasons": [cli.as_typed(one.state.reason) for one in found], "mains": mains,
        "other_annotations": len({main.provenance.get("annotations_digest") for _, main in scored}) > 1,
        "tables": [table(kind, found) for kind in kinds],
        "loss": [chart for log in (False, True)
                 if (chart := charts.of_training("loss", trainings, log)) is not None],
        "small": [chart for name in ("lr", *others[:curves.MOST_CURVES])
                  if (chart := charts.of_training(name, trainings, small=True)) is not None],
        "checkpoints": [chart for name in scores.BY_GROUP for kind in kinds[:1]
                        if (chart := scores.of_several({o.name: o.scores for o in found}, kind, name)) is not None],
        "pair": pair(scored) if len(scored) == 2 else [], "every_class": every_class(scored),
        "tide": tide(found), "differing": setup.differing({one.name: one.run for one in found}),
        "provenance": provenance(found),
        "evaluate": cli.as_typed("python -m ecm_cluster.evaluate RUN --analysis")}


def table(kind: str, found: Sequence[Subject]) -> dict[str, Any]:
    """One kind of overlap: a row for each run, with the difference to the first run that has the figure."""
    rows = [main for one in found if (main := one.scores.main) is not None]
    shown = scores.names(kind, rows)
    first: dict[str, float] = {}
    lines = []
    for at, one in enumerate(found):
        main, cells = one.scores.main, []
        for name in shown:
            value = scales.plain(main.figure(f"{kind}_{name}")) if main else None
            change = "" if value is None or name not in first else f"{100 * (value - first[name]):+.1f}"
            if value is not None:
                first.setdefault(name, value)
            cells.append((percent(value), change))
        lines.append({"run": one.name, "style": at, "iteration": main.provenance["iteration"] if main else "–",
                      "cells": cells})
    return {"kind": scores.word(kind), "names": shown, "rows": lines}


def pair(scored: Sequence[tuple[str, Row]]) -> list[dict[str, Any]]:
    """For two runs: each class in both, and those of each group that changed most."""
    (name, one), (other_name, other) = scored
    found = []
    for kind in (kind for kind in classes.kinds(one) if kind in classes.kinds(other)):
        chart = classes.against_each_other(one, other, kind, (name, other_name))
        if chart is not None:
            found.append({"kind": scores.word(kind), "chart": chart, "changed": changed(one, other, kind)})
    return found


def changed(one: Row, other: Row, kind: str) -> list[tuple[str, list[Any]]]:
    both = classes.in_both(one, other, kind)
    groups = [g for g in FREQUENCIES if any(c["group"] == g for c, _ in both)] or [""]
    found = []
    for group in groups:
        inside = sorted(((c, value) for c, value in both if not group or c["group"] == group),
                        key=lambda pair: -abs(pair[1] - pair[0]["ap"]))[:MOST_CHANGED]
        rows = [{"name": c["name"], "a": f"{c['ap']:.1f}", "b": f"{value:.1f}", "change": value - c["ap"]}
                for c, value in inside if value != c["ap"]]
        found.append((FREQUENCIES.get(group, "all"), sorted(rows, key=lambda row: -row["change"])))
    return [each for each in found if each[1]]


def every_class(scored: Sequence[tuple[str, Row]]) -> dict[str, Any] | None:
    """The AP of every class in each run, of the first kind of overlap that all of them have."""
    kind = next((k for k in scores.KINDS if scored and all(k in classes.kinds(row) for _, row in scored)), None)
    if kind is None:
        return None
    tables = [{c["id"]: c for c in classes.rows(row, kind)} for _, row in scored]
    rows = [(c, [t[c["id"]]["ap"] if c["id"] in t else None for t in tables]) for c in tables[0].values()]
    return {"kind": scores.word(kind), "runs": [name for name, _ in scored], "rows": rows}


def tide(found: Sequence[Subject]) -> list[dict[str, Any]]:
    """What each kind of error costs in each run, over all classes."""
    known = {one.name: (at, {kind["name"]: kind["bars"][0] for kind in one.analysis.tide if kind["bars"]})
             for at, one in enumerate(found) if one.analysis and one.analysis.tide}
    highest = max((bar["value"] or 0 for _, bars in known.values() for bar in bars.values()), default=0) or 1
    return [{"text": text, "bars": [
        {"run": run, "style": at, "text": bars[name]["text"],
         "width": round(100 * max(bars[name]["value"] or 0, 0) / highest, 2)}
        for run, (at, bars) in known.items() if name in bars]} for name, text in ERRORS.items() if known]


def provenance(found: Sequence[Subject]) -> list[tuple[str, list[str]]]:
    """A row for each fact, with a value for each run; those that all have in common are said once."""
    rows: dict[str, dict[str, str]] = {}
    for one in found:
        for title, group in one.provenance:
            for each in group:
                rows.setdefault(f"{title}: {each.name}", {})[one.name] = each.value
    return [(name, [values.get(one.name, "") for one in found]) for name, values in rows.items()]
