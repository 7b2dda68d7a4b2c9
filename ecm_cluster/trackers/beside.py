"""The processes that feed the trackers of a training, for rank 0's supervisor to start."""

from __future__ import annotations

import sys
from functools import partial

from ..base import processes
from ..node.beside import Quiet
from ..node.companion import Companion
from ..rundir.ledger import Ledger
from ..rundir.run import Run
from . import feeding


def start(run: Run, attempt: int) -> list[Companion]:
    """One for each tracker, so that none of them can hold up another."""
    started: list[Companion] = []
    with Quiet():
        for name in feeding.asked(run):
            ledger = run.ledger(attempt, f"tracker-{name}", patient=True)
            started.append(Companion(processes.command(sys.executable, "tracker feed", run.path, name),
                                     run.tracker_log(name), partial(_warn, ledger, name)))
    return started


def _warn(ledger: Ledger, name: str, text: str) -> None:
    ledger.write("warning", about=f"tracker {name}", text=f"{name}: {text}")
