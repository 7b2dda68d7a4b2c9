"""What travels to a compute node: a callable that holds a path and nothing else.

A fresh start and a restart are the same call; all progress lives in the run directory.
"""

from __future__ import annotations

import os
from typing import Any


class Train:
    """One task (rank) of a training job."""

    def __init__(self, run: str) -> None:
        self.run = run

    def __setstate__(self, state: dict[str, Any]) -> None:
        _hold_signals_back()
        self.__dict__.update(state)

    def __call__(self) -> None:
        _answer_signals_from_here_on()
        from ...rundir.run import Run
        from . import supervise_training

        supervise_training.TrainingSupervisor(Run(self.run)).run()


class Evaluate:
    """One task (rank) of an evaluation job, or of an element of an array of them."""

    def __init__(self, run: str, stage: str) -> None:
        self.run, self.stage = run, stage

    def __setstate__(self, state: dict[str, Any]) -> None:
        _hold_signals_back()
        self.__dict__.update(state)

    def __call__(self) -> None:
        _answer_signals_from_here_on()
        from ...rundir.run import Run
        from . import supervise_evaluation

        supervise_evaluation.evaluation_supervisor(Run(self.run), self.stage).run()


def _hold_signals_back() -> None:
    # called when submitit reads the task, before it installs its handlers: no signal meets them
    from .. import signals

    signals.hold_back()


def _answer_signals_from_here_on() -> None:
    # submitit's own handlers pickle and requeue from within the handler, on rank 0 alone; ours replace them at once
    from .. import signals

    signals.watch()
    os.environ["PYTHONUNBUFFERED"] = "1"


