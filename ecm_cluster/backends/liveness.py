"""Whether what a run has submitted waits or runs: asked alike by every verb that shows, resumes or cancels a run."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

from ..base import fileserver
from ..base.errors import UserError
from ..chain import submissions, successor
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


def look_after(runs: Sequence[Run]) -> None:
    """Do for the caller's own runs what no node could; nothing acts on what another user's run names."""
    if commands.slurm_available():
        for run, is_due in zip(runs, fileserver.each(_may_need_care, runs)):
            with contextlib.suppress(UserError, OSError):
                if is_due:
                    submissions.try_adopt(run)  # jobs whose submitter died before it recorded their IDs
                    successor.release_due(run)  # evaluations whose checkpoints are committed


def _may_need_care(run: Run) -> bool:
    with contextlib.suppress(UserError, OSError):  # a run that cannot be read has nothing to adopt or release
        return run.is_own and choose.of(run).queues and (
            bool(submissions.without_id(run)) or run.job().evaluation.while_training)
    return False


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
