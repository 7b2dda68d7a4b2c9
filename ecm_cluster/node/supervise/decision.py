"""What rank 0 decides once all ranks have stopped, and how the others learn it and wait for what follows."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from ...base import files
from ...base.reading import OneOf
from ...rundir.run import Work
from ..beside import Quiet
from ..world import RankInfo
from . import watchdog

STAY_SECONDS = 3600.0  # longer than any grace period, and than slurmctld takes to restart
DECISION = {"action": OneOf("again", "stay", "stop"), "cause": str}


def await_decision(work: Work, attempt: int, place: RankInfo) -> dict[str, Any]:
    """Rank 0's answer, waited for as long as rank 0 asks: leaving early would fail a job that is to be requeued.

    On one machine nobody but the others notices that rank 0's task has died before it could answer.
    """
    path = work.decision_file(attempt)
    near, end, lost = watchdog.Siblings(place.world_size), time.monotonic() + STAY_SECONDS, False
    while time.monotonic() < end and not lost:
        lost = not place.on_slurm and near.gone()
        decision = read(path, 1.0)
        if decision is not None:
            return decision
    return {"action": "stop", "cause": "unknown"}


def read(path: Path, seconds: float) -> Any:
    """The decision, waited for; None if there is none yet."""
    end, quiet = time.monotonic() + seconds, Quiet()
    while time.monotonic() < end:
        with quiet, contextlib.suppress(FileNotFoundError):
            return files.read_json(path, DECISION)
        time.sleep(0.1)
    return None


def stay(work: Work, attempt: int) -> None:
    """Wait until Slurm ends the task, or has accepted a requeue: leaving earlier would end the job."""
    end, quiet = time.monotonic() + STAY_SECONDS, Quiet()
    while time.monotonic() < end:
        with quiet:  # rank 0 alone writes it, so that one file is read
            if any(e.kind == "requeue" and e["accepted"] for e in work.events(attempt, "task000")):
                return
        time.sleep(1.0)  # the ledger on shared storage is read each time
