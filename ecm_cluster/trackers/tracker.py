"""What one tracker has to do: take points in their order, or replace all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..rundir.run import Run
from .series import Point


class Tracker:
    """One service or file format that shows a run.

    Args:
        options: See :data:`ecm_cluster.job.tracker_options.TRACKERS`.
        warn: Called with a text for the user.
    """

    def __init__(self, run: Run, options: Mapping[str, Any], warn: Callable[[str], None]) -> None:
        self.run, self.options, self.warn = run, options, warn

    def rewrite(self, points: Sequence[Point]) -> None:
        """Replace everything by these points."""
        raise NotImplementedError

    def append(self, points: Sequence[Point]) -> None:
        """Add points that follow the last one."""
        raise NotImplementedError

    def close(self) -> None:
        """Complete what was written.

        Raises:
            OSError: It is not complete.
        """

    def exists(self) -> bool:
        """Whether there is a record, as far as that is known here."""
        return True
