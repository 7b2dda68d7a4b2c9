"""What the page about one run shows, in the order in which it does."""

from __future__ import annotations

from typing import Any

from ..console import cli
from . import classes, scores
from .drawing import charts, curves
from .subject import Subject


def values(one: Subject) -> dict[str, Any]:
    """The variables of the template."""
    main = one.scores.main
    return {"run": one, "state": one.state, "tiles": scores.tiles(one.scores), "main": main,
            "progress": progress(one), "training": training(one),
            "checkpoints": [chart for kind in one.scores.kinds
                            if (chart := scores.over_checkpoints(one.scores, kind)) is not None],
            "tables": scores.table(one.scores), "classes": of_classes(main) if main else [],
            "next": cli.as_typed(one.state.next or ""), "reason": cli.as_typed(one.state.reason),
            "evaluate": cli.as_typed(f"python -m ecm_cluster.evaluate {one.run.name} --analysis")}


def progress(one: Subject) -> str:
    s = one.state
    if s.iteration is None:
        return "not started"
    return f"{s.iteration} of {s.iterations}" if s.iterations and s.iterations != s.iteration else str(s.iteration)


def training(one: Subject) -> dict[str, Any]:
    """The charts of the training: the loss twice, for both scales."""
    found = {one.name: one.training}
    loss = [chart for log in (False, True) if (chart := charts.of_training("loss", found, log)) is not None]
    small = [chart for name in ("lr", *(s.name for s in one.training.others[:curves.MOST_CURVES]))
             if (chart := charts.of_training(name, found, small=True)) is not None]
    return {"loss": loss, "small": small, "smoothed": any(line.faint for chart in loss for line in chart.lines),
            "thinned": one.training.logged > 4 * curves.COLUMNS, "logged": one.training.logged}


def of_classes(main: Any) -> list[dict[str, Any]]:
    """For each kind of overlap: the chart, the extremes of each group, and all classes."""
    found = []
    for kind in classes.kinds(main):
        rows = classes.rows(main, kind)
        found.append({"kind": scores.word(kind), "chart": classes.against_count(main, kind), "rows": rows,
                      "count": classes.count_name(rows), "extremes": classes.extremes(rows, classes.EXTREMES)})
    return found


