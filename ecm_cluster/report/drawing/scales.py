"""Axes of charts: positions in percent of the plot, round ticks, numbers as people write them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

LARGEST = 1e15  # beyond it a value says that something is broken, and no axis can show the rest beside it


def plain(value: object) -> float | None:
    """A number that can be drawn; None for anything else, such as the loss of a training that diverged."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) <= LARGEST else None  # false for NaN, too


@dataclass(frozen=True)
class Tick:
    """A mark on an axis; ``minor`` ones are left out where there is little room."""

    at: float
    text: str
    minor: bool = False


@dataclass(frozen=True)
class Scale:
    """One axis.

    Attributes:
        low, high: The values at its ends, ``low`` below ``high``; both positive if ``log``.
    """

    name: str
    low: float
    high: float
    ticks: tuple[Tick, ...] = ()
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value is, in percent, at most at an end."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, self.low))
        return round(min(max(100 * (value - low) / (high - low), 0.0), 100.0), 2)


def linear(name: str, values: Iterable[float], zero: bool = False, count: int = 5, high: float | None = None) -> Scale:
    """An axis that holds these values between round ends.

    Args:
        zero: It begins at zero, if no value is negative.
        count: About how many ticks.
        high: It ends there, exactly.
    """
    given = list(values)
    low, top = min(given, default=0.0), max(given, default=1.0)
    low = min(low, 0.0) if zero else low
    top = top if high is None else high
    if top <= low:
        low, top = (low - abs(low) / 2, top + abs(top) / 2) if low else (0.0, 1.0)
    step = _round_step((top - low) / count)
    first = math.floor(low / step + 1e-9)
    last = first + 1 if top <= low else math.ceil(top / step - 1e-9)
    ends = (first * step, last * step if high is None else high)
    axis = Scale(name, *ends)
    marks = [number * step for number in range(first, last + 1) if number * step <= ends[1] * (1 + 1e-9)]
    return Scale(name, *ends, tuple(Tick(axis.at(value), number_text(value, step), at % 2 == 1)
                                   for at, value in enumerate(marks)))


def exact(name: str, values: Iterable[float], count: int = 5) -> Scale:
    """A linear axis that begins at zero and ends at the largest value, as for iterations."""
    return linear(name, [0.0], count=count, high=max(values, default=1.0) or 1.0)


def logarithmic(name: str, values: Iterable[float]) -> Scale:
    """An axis for positive values, from a little below the least to a little above the largest."""
    given = [value for value in values if value > 0]
    low, high = min(given, default=1.0), max(given, default=10.0)
    low, high = (low / 1.15, high * 1.15)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    spread = math.log10(high / low)
    steps = (1,) if spread > 2.5 else (1, 3) if spread > 1.2 else (1, 2, 5) if spread > 0.5 else tuple(range(1, 10))
    every = max(1, round(spread / 6))  # of a span of many decades not each has room
    axis = Scale(name, low, high, log=True)
    marks = [step * 10.0**decade for decade in decades if decade % every == 0 for step in steps]
    return Scale(name, low, high, tuple(Tick(axis.at(value), number_text(value), step_of(value) != 1)
                                       for value in marks if low <= value <= high), True)


def step_of(value: float) -> int:
    """The first digit of a round value."""
    return int(round(value / 10.0 ** math.floor(math.log10(value) + 1e-9)))


def _round_step(rough: float) -> float:
    unit = 10.0 ** math.floor(math.log10(rough))
    return unit * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough * (1 - 1e-9))


def number_text(value: float, step: float = 0.0) -> str:
    """A number of an axis: ``0.25``, ``1500``, ``90k``, ``1e-05``."""
    if step:
        value = round(value / step) * step  # a multiple of 0.1 is not written as 0.30000000000000004
    if value == 0:
        return "0"
    size = abs(value)
    for limit, unit, name in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if size >= limit * (1 - 1e-9):
            return f"{value / unit:.4g}{name}"
    return f"{value:.4g}" if size >= 1e-4 else f"{value:.1e}".replace(".0e", "e")
