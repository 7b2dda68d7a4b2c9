"""Whether what a run has submitted waits or runs: asked alike by every verb that shows, resumes or cancels a run.

There are three answers: alive, ended, and not known. Slurm's word counts first, for a job that still carries its token.
Where Slurm does not know a job, or does not answer, a fresh heartbeat says that it is alive (another cluster's login
node, accounting that has forgotten it), and so does a record so young that Slurm may not list the job yet.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

from . import chain, driver, evaluations, files, recovery, submissions
from .backends import queue
from .job_states import LIVE, WAITING, JobState
from .run import Run, Work
from .submissions import Submitted

SILENT_SECONDS = 600.0  # without a heartbeat, an attempt that nobody vouches for counts as lost
SILENT_HERE = 60.0  # the same without Slurm, where only another machine's attempt has to be told by its heartbeat
YOUNG_SECONDS = 60.0  # that Slurm may take to list a job whose id it has given
Known = Optional[Mapping[str, JobState]]  # what Slurm says of jobs; None: it does not answer


@dataclass(frozen=True)
class Life:
    """Whether a job is alive, and why that is known.

    Attributes:
        alive: None where it is not known.
        waiting: Alive, and has not started.
        asked: Whether Slurm has answered.
        held: Waits until somebody releases it.
        vouched: Alive by its heartbeat alone.
        text: In words, mostly Slurm's.
    """

    alive: bool | None
    text: str
    waiting: bool = False
    asked: bool = True
    held: bool = False
    vouched: bool = False


def of_job(run: Run, job: Submitted, known: Known) -> Life:
    """Whether a job of a run is alive."""
    if job.cluster == "local":
        return Life(True, f"local driver {job.job_id}") if driver.alive(run, job.job_id or "") else Life(False, "")
    told = (known or {}).get(job.job_id or "")
    if told is None or not told.is_of(job.token, str(run.submitit_dir)):
        return _untold(run, job, known is not None)
    reason = f" ({told.reason})" if told.reason and told.reason != "None" else ""
    words = f"job {job.job_id} {told.state.lower()}{reason}"
    if told.kind == WAITING:
        return Life(True, words, waiting=True, held=told.is_held)
    return Life(True, f"job {job.job_id} on Slurm") if told.kind == LIVE else Life(False, words)


def _untold(run: Run, job: Submitted, asked: bool) -> Life:
    text = f"Slurm knows no job {job.job_id}" if asked else "Slurm does not answer here"
    if any(_vouches(work, job) for work in _works(run, job.stage)):
        return Life(True, f"by its heartbeat; {text}", asked=asked, vouched=True)
    if not asked:
        return Life(None, text, asked=False)
    age = files.age(run.submission_file(job.stage)) if job.present else None
    if age is not None and age < YOUNG_SECONDS:
        young = f"job {job.job_id} was submitted {age:.0f} s ago, and Slurm does not list it yet"
        return Life(True, young, waiting=True)
    return Life(False, text)


def _works(run: Run, stage: str) -> list[Work]:
    if stage == chain.TRAIN:
        return [run]
    return [work for work in evaluations.works(run, evaluations.read(run, stage)) if work is not None]


def _vouches(work: Work, job: Submitted) -> bool:
    """Whether the newest attempt is one of this job, has recorded no end, and was heard lately."""
    newest = work.newest_attempt()
    if not newest:
        return False
    owner = str(work.read_attempt(newest).get("job_id") or job.job_id).partition("_")[0]
    silence = work.silence(newest) if owner == job.job_id else None
    return silence is not None and silence < SILENT_SECONDS and recovery.last_end(work.events(), newest) is None


def on_slurm(run: Run) -> dict[str, str] | None:
    """The jobs of a run that are alive, former ones included; those whose submitter died are found first.

    Returns:
        Why each is known to be, by job id, in the order of the chain; None where Slurm does not answer, and so some may
        be.
    """
    submissions.try_adopt(run)
    jobs = [job for job in submissions.of_run(run) if job.job_id]
    known = queue.query([job.job_id for job in jobs if job.job_id]) if jobs else {}
    lives = {job.job_id or "": of_job(run, job, known) for job in jobs}
    if any(life.alive is None for life in lives.values()):
        return None
    return {job_id: life.text for job_id, life in lives.items() if life.alive}


def on_this_machine(run: Run) -> dict[str, str]:
    """The driver, or ranks that have outlived theirs, by pid; an attempt on another machine by its heartbeat."""
    pid = driver.find(run)
    if pid is not None:
        return {pid: f"local driver {pid}"}
    ranks = {rank: f"process {rank}, which commits and ends" for rank in driver.ranks(run)}
    number = run.newest_attempt()
    silence = run.silence(number) if number else None
    if not ranks and silence is not None and silence < SILENT_HERE:
        host = run.read_attempt(number)["host"]
        if host != socket.gethostname() and recovery.last_end(run.events(), number) is None:
            return {host: f"attempt {number} on {host}"}
    return ranks


def last_sign(run: Run) -> str:
    """How old the newest heartbeat is, in brackets; empty where there was none."""
    silence = run.silence(run.newest_attempt()) if run.newest_attempt() else None
    return f" (its last sign of life is {silence:.0f} s old)" if silence is not None else ""
