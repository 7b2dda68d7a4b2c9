"""A run on one machine: a driver runs the chain, one link after the other."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ..attempts import endings
from ..base import files
from ..base.errors import UserError
from ..chain import chain, evaluations, locks, submissions
from ..chain.evaluations import Element
from ..job.job import OPTIONS, Job
from ..rundir.run import Run, Submission
from ..slurm.sbatch import JobRequest
from . import driver, short_job
from .base import Known, Life, ShortJob, Sweep

SILENT_SECONDS = 60.0  # without a heartbeat, an attempt on another machine counts as gone
COMMITTING = 180.0  # seconds for the ranks of a run to commit and end
ENDING_SECONDS = 60.0  # that a driver may take to end, all its work done


class LocalBackend:
    """See :class:`ecm_cluster.backends.base.Backend`."""

    queues = False
    id_word = "process"
    poll_seconds = 1.0

    def require(self, remedy: str, answering: bool = False) -> None:
        pass

    def cluster_name(self) -> str | None:
        return None

    def records(self, links: Sequence[str]) -> list[str]:
        return [chain.TRAIN]  # the driver carries the whole chain

    def adopt(self, run: Run) -> list[str]:
        return []  # `submit` finds the driver

    def submit(self, run: Run, job: Job, after: str | None = None) -> dict[str, str]:
        """Start the driver, or find the one that a submission started before it died."""
        with locks.run_lock(run):
            pid, path = driver.find(run), run.submission_file(chain.TRAIN)
            token = run.submission(chain.TRAIN).get("token") if pid else None
            token = token or submissions.to_submit(run, chain.TRAIN, self.cluster_name())
            files.kill_point("before-driver", path)
            pid = pid or driver.start(run, job, token=token)
            files.kill_point("after-driver", path)
            submissions.write_id(run, chain.TRAIN, pid)
        return {"driver": pid}

    def sweeps(self, new: list[Element], answered: list[Element]) -> list[Sweep]:
        return [Sweep("on this machine", new)]

    def submit_sweep(self, run: Run, job: Job, link: str) -> str:
        end = time.monotonic() + ENDING_SECONDS
        while (pid := driver.find(run)) is not None:
            # one that has nothing left to do ends in a moment
            if time.monotonic() > end or not _has_done_all(run, driver.link_of(pid)):
                raise UserError(f"RUN: {run.name} is at work on this machine; evaluate it when it has ended, or cancel "
                                "it")
            time.sleep(0.1)
        return f"process {driver.start(run, job, link)}, log {run.local_log}"

    def life(self, run: Run, job: Submission, known: Known) -> Life:
        return Life(True, f"local driver {job.job_id}") if driver.alive(run, job.job_id or "") else Life(False, "")

    def alive(self, run: Run) -> dict[str, str] | None:
        """The driver, or ranks that have outlived theirs, by pid; an attempt on another machine by its heartbeat."""
        pid = driver.find(run)
        if pid is not None:
            return {pid: f"local driver {pid}"}
        ranks = {rank: f"process {rank}, which commits and ends" for rank in driver.ranks(run)}
        number = run.newest_attempt()
        host = run.read_attempt(number).get("host") if number and not ranks else socket.gethostname()
        if host and host != socket.gethostname() and endings.has_heartbeat(run, number, SILENT_SECONDS):
            return {host: f"attempt {number} on {host}"}
        return ranks

    def called(self, run: Run, ids: Sequence[str]) -> list[str]:
        return [f"driver {pid}" for pid in ids]

    def end(self, run: Run, live: Mapping[str, str]) -> list[str] | None:
        for pid in live:
            if not pid.isdigit():
                raise UserError(f"RUN: {live[pid]} cannot be ended from here; the run is marked, so that it will not "
                                f"start again; type the same on {pid}")
            if driver.is_own(run, pid):  # it may have ended by now, and its number be another's
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGTERM)
        print(f"{run.name}: the ranks commit and end", flush=True)
        end = time.monotonic() + COMMITTING
        while any(driver.alive(run, pid) for pid in live):
            if time.monotonic() > end:
                raise UserError(f"RUN: its driver {', '.join(live)} is still there after {COMMITTING:.0f} s; see "
                                f"{run.local_log}")
            time.sleep(0.1)
        return None if run.completion() and evaluations.chain_done(run, chain.EVALUATE) else []

    def check_changes(self, run: Run, changes: Mapping[str, Any], job: Job) -> None:
        for name in changes:
            if OPTIONS[name].slurm:
                raise UserError(f"{name}: has no meaning for {run.name}, which runs on one machine without Slurm; "
                                "leave it out")
        if job.device == "cuda" and job.nodes > 1:
            raise UserError(f"nodes: invalid value {job.nodes}; expected 1 on one machine with device cuda")

    def check(self, requests: Sequence[JobRequest], remedy: str, environ: Mapping[str, str] | None = None) -> None:
        pass

    def short_job(self, run: Run, job: Job, command: Sequence[str], log: Path,
                  minutes: int) -> AbstractContextManager[ShortJob]:
        return short_job.on_this_machine(run, job, command, log)

    def scripts(self, requests: Sequence[JobRequest]) -> list[str]:
        return []


def _has_done_all(run: Run, link: str) -> bool:
    links = chain.links(run.job()) if link == driver.CHAIN else [link]
    return run.completion() is not None and all(evaluations.chain_done(run, s) for s in links if s != chain.TRAIN)
