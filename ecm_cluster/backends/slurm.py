"""A run's jobs on Slurm.

Whether a job is alive has three answers: alive, ended, and not known. Slurm's word counts first, for a job that still
carries its token. Where Slurm does not know a job, or does not answer, a fresh heartbeat says that it is alive (another
cluster's login node, accounting that has forgotten it), and so does a record so young that Slurm may not list the job
yet.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ..attempts import endings
from ..base import files
from ..base.errors import UserError, one_of
from ..chain import chain, evaluations, submissions
from ..chain.evaluations import Element
from ..job.job import Job
from ..rundir.run import Run, Submission, Work
from ..slurm import commands, launcher, queue, reasons, site
from ..slurm.job_states import ENDED, LIVE, WAITING
from ..slurm.sbatch import JobRequest
from . import short_job
from .base import Known, Life, ShortJob, Sweep

SILENT_SECONDS = 600.0  # without a heartbeat, an attempt that nobody vouches for counts as lost
YOUNG_SECONDS = 60.0  # that Slurm may take to list a job whose id it has given
SETTLING = 90.0  # seconds for the ranks of a job to end; Slurm kills them KillWait (30 s by default) after scancel


class SlurmBackend:
    """See :class:`ecm_cluster.backends.base.Backend`."""

    queues = True
    id_word = "job"
    poll_seconds = 5.0

    def require(self, remedy: str, answering: bool = False) -> None:
        reason = site.silence() if answering or not commands.slurm_available() else None
        if reason:
            raise UserError(f"cluster: Slurm is not reachable: {reason}; {remedy}")

    def cluster_name(self) -> str | None:
        return queue.cluster_name()

    def records(self, links: Sequence[str]) -> list[str]:
        return list(links)

    def adopt(self, run: Run) -> list[str]:
        return submissions.adopt(run)

    def submit(self, run: Run, job: Job, after: str | None = None) -> dict[str, str]:
        return chain.submit(run, job, f"afterany:{after}" if after else None)

    def sweeps(self, new: list[Element], answered: list[Element]) -> list[Sweep]:
        limit = site.max_array_size()
        kinds = (("the model answers on all images", [e for e in new if e not in answered], False),
                 ("no GPU: detections are there", answered, True))
        return [Sweep(words, elements[begin:begin + limit], scoring_only) for words, elements, scoring_only in kinds
                for begin in range(0, len(elements), limit)]

    def submit_sweep(self, run: Run, job: Job, link: str) -> str:
        several = len(evaluations.read(run, link))
        return f"job {chain.submit_link(run, job, link, after=None)}" + (f"_[0-{several - 1}]" if several > 1 else "")

    # -- what is alive

    def life(self, run: Run, job: Submission, known: Known) -> Life:
        state = (known or {}).get(job.job_id or "")
        if state is None or not state.is_of(job.token, str(run.submitit_dir)):
            return self._life_unlisted(run, job, known is not None)
        why = reasons.in_words(state.reason) if state.kind == WAITING else ""
        reason = f" ({state.reason}{why and f': {why}'})" if state.reason and state.reason != "None" else ""
        words = f"job {job.job_id} {state.state.lower()}{reason}"
        if state.kind == WAITING:
            return Life(True, words, waiting=True, held=state.is_held, start=state.expected_start)
        return Life(True, f"job {job.job_id} on Slurm") if state.kind == LIVE else Life(False, words)

    def _life_unlisted(self, run: Run, job: Submission, asked: bool) -> Life:
        text = f"Slurm has no record of job {job.job_id}" if asked else "Slurm does not answer here"
        if any(_vouches(work, job) for work in _works(run, job.link)):
            return Life(True, f"by its heartbeat; {text}", vouched=True)
        if not asked:
            return Life(None, text)
        age = files.age(run.submission_file(job.link)) if job.present and run.is_own else None
        if age is not None and age < YOUNG_SECONDS:
            young = f"job {job.job_id} was submitted {age:.0f} s ago, and Slurm does not list it yet"
            return Life(True, young, waiting=True)
        return Life(False, text)

    def alive(self, run: Run) -> dict[str, str] | None:
        """Includes earlier jobs; those whose submitter died are found first."""
        submissions.try_adopt(run)
        jobs = [job for job in submissions.of_run(run) if job.job_id]
        known = queue.query([job.job_id for job in jobs if job.job_id]) if jobs else {}
        lives = {job.job_id or "": self.life(run, job, known) for job in jobs}
        if any(life.alive is None for life in lives.values()):
            return None
        return {job_id: life.text for job_id, life in lives.items() if life.alive}

    # -- ending it

    def called(self, run: Run, ids: Sequence[str]) -> list[str]:
        link_of = {job.job_id: job.link for job in submissions.of_run(run)}
        return [f"{link_of[job_id]} {job_id}" for job_id in ids]

    def end(self, run: Run, live: Mapping[str, str]) -> list[str] | None:
        """Cancel the last of the chain first, so that none of it starts while the others end; again what came back."""
        jobs = [job for job in submissions.of_run(run) if job.job_id]
        token_of = {job.job_id or "": job.token for job in jobs}
        for job_id in reversed(list(live)):
            commands.cancel(job_id, token_of[job_id])
        began, announced = time.monotonic(), False
        while True:
            known = queue.query(token_of) or {}
            states = [state for job in jobs if (state := known.get(job.job_id or ""))
                      and state.is_of(job.token, str(run.submitit_dir)) and state.kind != ENDED]
            back = [s.job_id for s in states if s.kind == WAITING or s.state == "RUNNING"]
            passed = time.monotonic() - began
            if not states or passed > SETTLING:
                return back
            if passed > 2 and not announced:
                print(f"{run.name}: waiting for the ranks to end", flush=True)
                announced = True
            # a requeue that was under way as the job was cancelled has brought it back by now
            if passed > 1:
                for job_id in back:
                    commands.cancel(job_id, token_of[job_id])
            time.sleep(0.3)

    # -- before anything is submitted

    def check_changes(self, run: Run, changes: Mapping[str, Any], job: Job) -> None:
        known = [p.name for p in site.partitions()]
        for name in (changes.get("partition") or "").split(","):
            if name and known and name not in known:
                raise one_of("partition", name, known)

    def check(self, requests: Sequence[JobRequest], remedy: str, environ: Mapping[str, str] | None = None) -> None:
        site.check(requests, remedy, environ)

    def short_job(self, run: Run, job: Job, command: Sequence[str], log: Path,
                  minutes: int) -> AbstractContextManager[ShortJob]:
        return short_job.on_slurm(run, job, command, log, minutes)

    def scripts(self, requests: Sequence[JobRequest]) -> list[str]:
        return [f"# ---- sbatch script: {asked.link}\n{launcher.render(asked)}" for asked in requests]


def _works(run: Run, link: str) -> list[Work]:
    if link == chain.TRAIN:
        return [run]
    return [work for work in evaluations.works(run, evaluations.read(run, link)) if work is not None]


def _vouches(work: Work, job: Submission) -> bool:
    """Whether the newest attempt is one of this job, has recorded no end, and has a fresh heartbeat."""
    newest = work.newest_attempt()
    if not newest:
        return False
    owner = str(work.read_attempt(newest).get("job_id") or job.job_id).partition("_")[0]
    return owner == job.job_id and endings.has_heartbeat(work, newest, SILENT_SECONDS)
