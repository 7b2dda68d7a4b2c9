"""Keeps one tracker at what the run directory says, by one rule: what follows is appended, any change is a new record.

Everything except new points at the end is a change: iterations that a resume repeated, a branch that ``resume --from``
left, scores of an earlier checkpoint, and what a killed process has left, which may be truncated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from ..base import files
from ..base.errors import UserError
from ..base.reading import read_json
from ..keycheck import tracker_hooks
from ..mmconfig.config import read_literals
from ..rundir.run import Run
from .series import Point, Series
from .tensorboard import TensorBoard
from .tracker import Tracker
from .weights_and_biases import WeightsAndBiases

TRACKERS: Mapping[str, type[Tracker]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def asked(run: Run) -> dict[str, dict[str, Any]]:
    """The trackers of a run with their options."""
    return tracker_hooks.asked(run.job(), read_literals(run.config_file) if run.config_file.exists() else {})


class Feed:
    """One tracker and what it has; to be used by the process that holds its lock."""

    def __init__(self, run: Run, name: str, options: dict[str, Any], warn: Callable[[str], None]) -> None:
        self.run, self.name, self.options = run, name, options
        self.tracker = TRACKERS[name](run, options, warn)
        self.series = Series(run)
        self.has: list[Point] | None = None  # None: not known

    def wanted(self) -> list[Point]:
        return self.series.points(self.options.get("interval", 1))

    def update(self) -> None:
        """Bring the tracker up to date.

        Raises:
            Exception: Anything that a tracker's library may raise; the next update starts over.
        """
        wanted = self.wanted()
        if wanted == (self.has or []):
            return
        has, self.has = self.has, None
        self.run.tracker_mark(self.name).unlink(missing_ok=True)
        if has is None or wanted[:len(has)] != has:
            self.tracker.rewrite(wanted)
        else:
            self.tracker.append(wanted[len(has):])
        self.has = wanted

    def is_complete(self) -> bool:
        """Whether an earlier process has closed a record of exactly these points."""
        with suppress(OSError, UserError):
            return read_json(self.run.tracker_mark(self.name), {"digest": str})["digest"] == self._digest() \
                and self.tracker.exists()
        return False

    def close(self) -> None:
        """Complete the record; raises as :meth:`update`."""
        self.tracker.close()
        if self.has:
            files.write_json(self.run.tracker_mark(self.name), {"digest": self._digest()})

    def _digest(self) -> str:
        points = self.wanted() if self.has is None else self.has
        return hashlib.sha256(repr((self.options, points)).encode()).hexdigest()
