"""The curves of a training: what all attempts logged, as one series, drawn with the points that can be seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ...rundir import training_log
from ...rundir.run import Run
from . import scales
from .scales import Scale

COLUMNS = 1000  # of a chart as wide as the page: more points in a column than four change no pixel
SMALL_COLUMNS = 300
MOVING = 50  # the mean runs over a part of the points that is one in so many
LEAST_TO_SMOOTH = 60  # points
HOVERS, SMALL_HOVERS = 120, 40  # places of a chart that say their values
MOST_CURVES = 12  # small charts
FIRST = ("loss_cls", "loss_bbox", "loss_mask", "loss_rpn_cls", "loss_rpn_bbox")  # then in the order of the log
NOT_CURVES = ("mode", "epoch", "iter", "iteration", "attempt", "timestamp", "loss", "lr", "memory", "eta",
              "momentum")

Point = tuple  # (iteration, value)


@dataclass(frozen=True)
class Curve:
    """What a training logged under one name.

    Attributes:
        points: (iteration, value) where the value is a number that can be drawn.
        lost: Iterations at which it was not, such as NaN.
    """

    name: str
    points: tuple[Any, ...]
    lost: tuple[int, ...] = ()

    @property
    def last(self) -> float:
        return self.points[-1][1]


@dataclass(frozen=True)
class Training:
    """All series of a run.

    Attributes:
        restarts: (iteration after which it resumed, number of the attempt), without the first attempt.
        logged: Number of log lines that count.
    """

    loss: Curve
    rate: Curve
    others: tuple[Curve, ...]
    restarts: tuple[tuple[int, int], ...]
    logged: int

    @property
    def last_iteration(self) -> int:
        return max((s.points[-1][0] for s in (self.loss, self.rate, *self.others) if s.points), default=0)


def of(run: Run) -> Training:
    """The series of a run; empty ones if it has logged nothing."""
    lines = training_log.fold(run)
    names = list(dict.fromkeys(name for line in lines for name in line if name not in NOT_CURVES))
    names.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    others = [series(name, lines) for name in names]
    restarts = []
    for attempt in run.attempts()[1:]:
        header, _ = training_log.read(run, attempt)
        if header is not None:
            restarts.append((header["starts_after"], attempt))
    last = lines[-1]["iteration"] if lines else 0
    return Training(series("loss", lines), series("lr", lines), tuple(s for s in others if len(s.points) > 1),
                    tuple(r for r in restarts if r[0] <= last), len(lines))


def series(name: str, lines: Iterable[dict[str, Any]]) -> Curve:
    points, lost = [], []
    for line in lines:
        if name not in line:
            continue
        value = line[name]
        while isinstance(value, (dict, list)) and value:  # a learning rate for each group of parameters: the first
            value = next(iter(value.values() if isinstance(value, dict) else value))
        number = scales.plain(value)
        if number is not None:
            points.append((line["iteration"], number))
        elif isinstance(value, float):
            lost.append(line["iteration"])
    return Curve(name, tuple(points), tuple(lost))


def smooth(points: Sequence[Any]) -> list[Any]:
    """The moving mean of many points, over a window around each; empty for few points."""
    if len(points) < LEAST_TO_SMOOTH:
        return []
    half = max(2, len(points) // MOVING // 2)
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    ends = [(max(0, at - half), min(len(points), at + half + 1)) for at in range(len(points))]
    return [(points[at][0], (sums[stop] - sums[start]) / (stop - start)) for at, (start, stop) in enumerate(ends)]


def thin(points: Sequence[Any], columns: int) -> list[Any]:
    """The points that can be seen in so many columns: of each the first, the least, the largest and the last."""
    if len(points) <= 4 * columns:
        return list(points)
    low, span = points[0][0], max(points[-1][0] - points[0][0], 1)
    kept: list[Any] = []
    column: list[Any] = []
    at = 0

    def close() -> None:
        if column:
            ends = (pick(range(len(column)), key=lambda i: column[i][1]) for pick in (min, max))
            kept.extend(column[i] for i in sorted({0, *ends, len(column) - 1}))

    for point in points:
        place = int((point[0] - low) * columns / span)
        if place != at:
            close()
            column, at = [], place
        column.append(point)
    close()
    return kept


def path(points: Sequence[Any], x: Scale, y: Scale, columns: int = COLUMNS) -> str:
    """The line through points in a box of 1000 by 1000, as SVG draws it."""
    shown = [p for p in points if p[1] > 0] if y.log else points
    places = [f"{_short(10 * x.at(a))} {_short(1000 - 10 * y.at(b))}" for a, b in thin(shown, columns)]
    return "M" + "L".join(places) if places else ""


def _short(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


@dataclass(frozen=True)
class Hover:
    """A strip of a chart that says the values in it; positions in percent."""

    left: float
    width: float
    at: float
    text: str


def hovers(all_points: Sequence[Sequence[Any]], x: Scale, say: Callable[[int, list[Any]], str],
           count: int) -> list[Hover]:
    """Strips over a chart of several lines, at most ``count``; ``say(iteration, values of the lines)`` is the text."""
    longest = max(all_points, key=len, default=())
    chosen = longest[::max(1, math.ceil(len(longest) / count))]
    centres = [x.at(iteration) for iteration, _ in chosen]
    edges = [0.0, *((a + b) / 2 for a, b in zip(centres, centres[1:])), 100.0]
    found, tables = [], [dict(points) for points in all_points]
    for (iteration, _), at, left, right in zip(chosen, centres, edges, edges[1:]):
        values = [table.get(iteration) for table in tables]
        found.append(Hover(round(left, 2), round(right - left, 2), at, say(iteration, values)))
    return found
