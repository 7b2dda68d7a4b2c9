"""The picklable task of a job: a callable that holds a path and nothing else.

A first start and a restart are the same call; all progress lives in the run directory. The pickle names these classes,
and the code that reads it is the run's frozen code, of any version: name, place and arguments must stay.
"""

from __future__ import annotations

import os
from typing import Any

from ..base import processes
from . import signals


class Train:
    """One task (rank) of a training job."""

    process = "training supervisor"

    def __init__(self, run: str) -> None:
        self.run = run

    def __setstate__(self, state: dict[str, Any]) -> None:
        # submitit reads the task before it installs its handlers: no signal must reach those
        signals.hold_back()
        self.__dict__.update(state)

    def __call__(self) -> None:
        # submitit's own handlers pickle and requeue from within the handler, on rank 0 alone; ours replace them at once
        signals.watch()
        os.environ["PYTHONUNBUFFERED"] = "1"
        processes.main_of(self.process)(*self.__dict__.values())


class Evaluate(Train):
    """One task (rank) of an evaluation job, or of an element of an array of them."""

    process = "evaluation supervisor"

    def __init__(self, run: str, link: str) -> None:
        super().__init__(run)
        self.stage = link  # the name in pickles
