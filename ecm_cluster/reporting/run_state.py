"""The state of a run as a record, and what the states of training and evaluation have in common."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

from ..attempts import causes
from ..backends import liveness
from ..backends.base import Known, Life
from ..base.units import moment, size_text
from ..rundir.run import Run

ENDED = ("done", "failed", "stopped")
PATIENCE = 5.0  # seconds for which a run must look ended: its record and its job's state change one after the other


@dataclass
class RunState:
    """One run as ``status`` shows it.

    Attributes:
        state: ``submitting``, ``waiting``, ``running``, ``evaluating``, ``done``, ``complete`` (trained, but not
            scored yet), ``stopped``, ``failed``, ``unknown`` (Slurm does not answer), or ``unreadable`` (the
            directory is damaged).
        reason: Why it is in this state, in a few words.
        next: The command to use next, if there is something to do.
        refused: Slurm accepted the training, but refused its evaluation.
        seconds_per_iteration, loss: From the newest heartbeat.
        expected_start: When Slurm expects the job that waits to start, in seconds since the epoch.
    """

    run: str
    path: str
    state: str
    reason: str
    next: str | None = None
    attempt: int = 0
    iteration: int | None = None
    iterations: int | None = None
    epoch: int | None = None
    loss: float | None = None
    seconds_per_iteration: float | None = None
    checkpoint: str | None = None
    jobs: dict[str, str | None] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    refused: bool = False
    expected_start: float | None = None

    @property
    def expected(self) -> str:
        """``; expected to start at 21:30``; empty where that is not known."""
        if self.expected_start is None:
            return ""
        return f"; expected to start at {moment(self.expected_start, time.time())}"

    @property
    def seconds_left(self) -> float | None:
        """Until the training is complete, at its present pace; None unless it is training."""
        if self.state != "running" or not self.iterations or self.iteration is None or not self.seconds_per_iteration:
            return None
        return max(0.0, (self.iterations - self.iteration) * self.seconds_per_iteration)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def accounted(job_id: str, known: Known) -> str | None:
    """The cause of a job's end according to Slurm, the only source if its nodes have no scontrol."""
    job = (known or {}).get(job_id)
    cause = causes.BY_STATE.get(job.state) if job else None
    return None if cause == "crashed" else cause  # a job that the run itself ended is FAILED, too


def life_of(run: Run, link: str, known: Known) -> Life:
    """Of the current job of a link."""
    return liveness.of_job(run, run.submissions_of(link)[-1], known)


def only_stopped(ending: causes.Cause) -> bool:
    """Whether the run ended without a failure; causes with a failure budget would have been restarted."""
    return ending.budget is None and ending.action in ("continue", "wait")


def release_line(run: Run, link: str) -> str:
    """The command that releases a held job."""
    return f"scontrol release {run.submission(link).get('job_id')}"


def phase_of(heartbeat: dict[str, Any] | None) -> str:
    """The phase and progress of an attempt: ``staging 8.1 of 19.3 GB``, ``inference 300/5000``."""
    if not heartbeat:
        return "starting"
    phase = heartbeat.get("phase", "starting")
    if not heartbeat.get("total"):
        return phase
    if phase == "staging":
        return f"staging {size_text(heartbeat['done'])} of {size_text(heartbeat['total'])}"
    return f"{phase} {heartbeat['done']}/{heartbeat['total']}"
