"""What the trackers get: a point for each line of the folded training log, and the scores of each checkpoint.

Regardless of its attempts, this is the series of a training that was never interrupted. It is computed from the run
directory alone, so every process that computes it gets the same.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from ..base import fileserver
from ..job import eval_settings
from ..rundir import training_log
from ..rundir.paths import CHECKPOINT
from ..rundir.run import Evaluation, Run

NOT_FIGURES = ("mode", "epoch", "iter", "iteration", "attempt", "timestamp")


@dataclass(frozen=True)
class Point:
    """Figures of one iteration.

    Attributes:
        time: Seconds since the epoch.
        scores: Names of the values that are scores of the checkpoint of this iteration.
    """

    iteration: int
    time: float
    values: dict[str, float]
    scores: tuple[str, ...] = ()


class TrackedSeries:
    """The series of a run, as it grows; files that have not changed are not read again."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._logs: dict[int, tuple[Any, Any, list[Point]]] = {}
        self._scores: dict[str, tuple[Any, Any]] = {}

    def points(self, interval: int = 1) -> list[Point]:
        """All points, by iteration.

        Args:
            interval: Of the log's lines, only the first in each interval of so many iterations.
        """
        found: dict[int, Point] = {}
        kept = 0
        for point in training_log.folded(self.run, self._log, attrgetter("iteration")):
            if point.iteration // interval > kept // interval:
                found[point.iteration], kept = point, point.iteration
        for scored in self._scored():
            line = found.get(scored.iteration)
            found[scored.iteration] = replace(line, values={**line.values, **scored.values},
                                              scores=scored.scores) if line else scored
        return [found[iteration] for iteration in sorted(found)]

    def _log(self, attempt: int) -> tuple[Any, list[Point]]:
        state = _state(self.run.json_log(attempt))
        if attempt not in self._logs or self._logs[attempt][0] != state:
            header, lines = training_log.read(self.run, attempt)
            began = os.stat(self.run.attempt_file(attempt)).st_mtime
            self._logs[attempt] = state, header, list(_points(lines, began, header["starts_after"] if header else 0))
        return self._logs[attempt][1:]

    def _scored(self) -> Iterator[Point]:
        """The scores of each checkpoint under the config's own test settings.

        As with log lines, a checkpoint behind the point from which a later attempt resumed does not count.
        """
        found, starts = {}, {attempt: self.run.resumed_after(attempt) for attempt in self.run.attempts()}
        for work in self.run.evaluations():
            state = _state(work.metrics_file())
            if work.key not in self._scores or self._scores[work.key][0] != state:
                self._scores[work.key] = state, _scores_of(work) if state else None
            attempt, point = self._scores[work.key][1] or (0, None)
            if point and all(start >= point.iteration for later, start in starts.items() if later > attempt):
                found[attempt, point.iteration] = point
        for key in sorted(found):
            yield found[key]


def _state(path: Path) -> Any:
    """What changes with a file's content; None: there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return fileserver.stamp(found)


def _points(lines: list[dict[str, Any]], began: float, start: int) -> Iterator[Point]:
    clock, last = began, start
    for line in lines:
        # lines of earlier versions have no time of their own
        passed = (line["iteration"] - last) * (number if (number := _number(line.get("time"))) is not None else 0.0)
        clock, last = _number(line.get("timestamp")) or clock + passed, line["iteration"]
        yield Point(line["iteration"], clock, dict(_figures(line)))


def _figures(line: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The figures of a log line, by the names that mmcv's own hooks give them."""
    for key, value in line.items():
        if key == "lr":
            rates = value.items() if isinstance(value, dict) else [("", value)]
            named = [(f"learning_rate/{name}" if name else "learning_rate", rate) for name, rate in rates]
        else:
            named = [(f"train/{key}", value)] if key not in NOT_FIGURES else []
        yield from ((name, number) for name, given in named if (number := _number(given)) is not None)


def _scores_of(work: Evaluation) -> tuple[int, Point] | None:
    """The attempt of an evaluated checkpoint, and its scores; None if they are of other settings, or damaged."""
    document = work.metrics()
    of = CHECKPOINT.fullmatch(document["provenance"]["checkpoint"]) if document else None
    if document is None or of is None or eval_settings.SETTINGS.keys() & (document["provenance"].get("settings") or {}):
        return None
    values = {f"val/{kind}_{name}": float(value) for kind, figures in document["figures"].items()
              for name, value in figures.items() if value is not None and value >= 0}  # -1: undefined
    return int(of[2]), Point(int(of[1]), os.stat(work.metrics_file()).st_mtime, values, tuple(values))


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if value == value else math.nan  # the same object each time, as it does not equal itself
