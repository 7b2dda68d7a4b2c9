"""Whether what a run has submitted waits or runs: asked alike by every verb that shows, resumes or cancels a run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..rundir.run import Run, Submission
from ..slurm import commands, queue
from . import choose
from .base import Known, Life


def known(runs: Sequence[Run]) -> Known:
    """What Slurm says of the present jobs of all these runs, in one question; None where it does not answer."""
    ids = [s.job_id for run in runs for s in run.submissions() if s.job_id and choose.by_name(s.cluster).queues]
    if not ids:
        return {}
    return queue.query(ids) if commands.slurm_available() else None


def of_job(run: Run, job: Submission, known_jobs: Known) -> Life:
    """Whether a job of a run is alive, given :func:`known`."""
    return choose.by_name(job.cluster).life(run, job, known_jobs)


def alive(run: Run) -> dict[str, str] | None:
    """What of a run is alive, by id, with the reason in words; None if that is unknown."""
    return choose.of(run).alive(run)


def last_sign(run: Run) -> str:
    """How old the newest heartbeat is, in brackets; empty where there was none."""
    silence = run.seconds_since_heartbeat(run.newest_attempt()) if run.newest_attempt() else None
    return f" (its last sign of life is {silence:.0f} s old)" if silence is not None and math.isfinite(silence) else ""
