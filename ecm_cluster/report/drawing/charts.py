"""Charts of curves: of one run, or of several runs in one chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import curves, scales
from .curves import Curve, Hover, Training
from .scales import Scale

NAMES = {
    "loss": "Loss", "lr": "Learning rate", "time": "Seconds per iteration", "data_time": "Seconds waiting for data",
    "grad_norm": "Gradient norm", "loss_cls": "Classification loss", "loss_bbox": "Box loss", "loss_mask": "Mask loss",
    "loss_rpn_cls": "RPN classification loss", "loss_rpn_bbox": "RPN box loss", "acc": "Classification accuracy, %",
    "acc_objectness": "Objectness accuracy, %", "acc_classes": "Class accuracy, %"}
LEAST_TO_CUT = 20  # values
MOST_MARKS = 12  # restarts that are labelled; more are only drawn


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        style: Its place among the lines, which decides on its colour and its dashes.
        colour: A class of the style sheet instead of the colour of its place.
        faint: The line that was smoothed to give it.
        dots: Of few points: places in percent, with what they say.
    """

    name: str
    path: str
    style: int = 0
    colour: str = ""
    faint: str = ""
    last: str = ""
    dots: tuple[tuple[float, float, str], ...] = ()


@dataclass(frozen=True)
class Mark:
    """A vertical line, at a place in percent."""

    at: float
    text: str
    label: str = ""


@dataclass(frozen=True)
class Chart:
    """One chart; ``alt`` says in words what it shows."""

    title: str
    x: Scale
    y: Scale
    lines: tuple[Line, ...]
    alt: str
    hovers: list[Hover] = field(default_factory=list)
    marks: tuple[Mark, ...] = ()
    note: str = ""


def value_text(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.4g}"


def of_training(name: str, trainings: Mapping[str, Training], log: bool = False, small: bool = False) -> Chart | None:
    """The chart of what trainings, by the name of the run, logged under one name; None if there is nothing to show."""
    found = {run: one for run, training in trainings.items() if (one := _series(training, name)) and one.points}
    if not found:
        return None
    title, columns = NAMES.get(name, name), curves.SMALL_COLUMNS if small else curves.COLUMNS
    x = scales.exact("iteration", [training.last_iteration for training in trainings.values()], 4 if small else 8)
    y = _axis(title, list(found.values()), log, small)
    order = list(trainings)
    lines = tuple(_line(run, one, x, y, order.index(run), columns) for run, one in found.items())
    marks: tuple[Mark, ...] = ()
    if len(trainings) == 1 and not small:
        marks = restarts(next(iter(trainings.values())), x)

    def say(iteration: int, values: list[Any]) -> str:
        if len(found) == 1:
            return f"iteration {iteration}: {value_text(values[0])}"
        each = (f"{run} {value_text(value)}" for run, value in zip(found, values) if value is not None)
        return f"iteration {iteration}: {', '.join(each)}"

    hovers = curves.hovers([one.points for one in found.values()], x, say,
                           curves.SMALL_HOVERS if small else curves.HOVERS)
    return Chart(title, x, y, lines, f"{title} over iterations. {_summary(found)}", hovers, marks,
                 "; ".join(filter(None, (_lost(found), _cut(found, y)))))


def _series(training: Training, name: str) -> Curve | None:
    own = {"loss": training.loss, "lr": training.rate}
    return own.get(name) or next((one for one in training.others if one.name == name), None)


def _axis(title: str, found: Sequence[Curve], log: bool, small: bool) -> Scale:
    values = [value for one in found for _, value in one.points]
    if log:
        return scales.logarithmic(title, values)
    top = max(without_peaks([value for _, value in one.points]) for one in found)
    return scales.linear(title, [value for value in values if value <= top], zero=True, count=3 if small else 5)


def without_peaks(values: Sequence[float]) -> float:
    """The largest value that an axis has room for: a few huge ones, as at a start, would flatten all the rest."""
    ordered = sorted(values)
    rest = ordered[:len(ordered) - max(1, len(ordered) // 200)] if len(ordered) >= LEAST_TO_CUT else ordered
    return rest[-1] if ordered[-1] > 2 * rest[-1] > 0 else ordered[-1]


def _line(run: str, one: Curve, x: Scale, y: Scale, style: int, columns: int) -> Line:
    smoothed = curves.smooth(one.points)
    path = curves.path(smoothed or one.points, x, y, columns)
    faint = curves.path(one.points, x, y, columns) if smoothed else ""
    return Line(run, path, style, faint=faint, last=value_text((smoothed or one.points)[-1][1]))


def restarts(training: Training, x: Scale) -> tuple[Mark, ...]:
    several = len(training.restarts) > MOST_MARKS
    return tuple(Mark(x.at(after), f"attempt {attempt} resumed after iteration {after}",
                      "" if several else str(attempt)) for after, attempt in training.restarts)


def _cut(found: Mapping[str, Curve], y: Scale) -> str:
    above = sum(value > y.high for one in found.values() for _, value in one.points)
    several = "s" if above > 1 else ""
    return f"{above} value{several} above {scales.number_text(y.high)} drawn at the top" if above else ""


def _summary(found: Mapping[str, Curve]) -> str:
    return " ".join(f"{run}: {value_text(one.points[0][1])} at iteration {one.points[0][0]}, {value_text(one.last)} at "
                    f"iteration {one.points[-1][0]}." for run, one in found.items())


def _lost(found: Mapping[str, Curve]) -> str:
    return "; ".join(f"{run + ': ' if len(found) > 1 else ''}{len(one.lost)} logged value"
                     f"{'s are' if len(one.lost) > 1 else ' is'} not a finite number, the first at iteration "
                     f"{one.lost[0]}" for run, one in found.items() if one.lost)
