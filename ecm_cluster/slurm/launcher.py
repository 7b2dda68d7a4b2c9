"""Submitting: the only file that imports submitit, and that calls sbatch.

submitit is imported inside the functions (0.1 s that ``--help`` need not wait for).
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..base import files
from ..base.errors import UserError
from ..base.units import parse_time
from ..job import job as jobs
from ..job import sharing
from ..rundir import job_env
from ..rundir.run import Run
from .commands import COMMAND_TIMEOUT, said
from .job_states import script_name
from .sbatch import JobRequest, outside_environment, python_of, sbatch_parameters, task_command, visible_gpus

SUBMIT_TIMEOUT = 120  # seconds that sbatch may take: it waits for a slow slurmctld itself
SAYS_NO_ANSWER = re.compile("timed out|Zero Bytes|[Cc]onnection reset|Communication connection failure")


def _executor_class() -> type:
    from submitit.slurm.slurm import SlurmExecutor

    class Executor(SlurmExecutor):
        omitted: set[str] = set()

        @classmethod
        def affinity(cls) -> int:
            return 2  # a dry run renders the script on machines without Slurm too

        def _make_submission_file_text(self, command: str, uid: str) -> str:
            head, mark, rest = super()._make_submission_file_text(command, uid).partition("\n\n# setup\n")
            lines = [line for line in head.splitlines()
                     if line[len("#SBATCH --"):].partition("=")[0] not in self.omitted]
            return "\n".join(lines) + mark + rest

    return Executor


def _executor(request: JobRequest) -> Any:
    executor = _executor_class()(request.run.submitit_dir, python=task_command(request.job))
    executor.update_parameters(**sbatch_parameters(request))
    executor.omitted = request.omitted
    return executor


def render(request: JobRequest) -> str:
    """The exact sbatch script of one job; nothing is written."""
    executor = _executor(request)
    if request.elements > 1:
        executor.parameters["map_count"] = request.elements  # as submitit's own array does
    return executor._make_submission_file_text(executor._submitit_command_str, "")


def write_task(request: JobRequest, task: Callable[[], Any]) -> None:
    """Put the task's pickle where a job whose submitter died finds it."""
    from submitit.core.utils import DelayedSubmission

    delayed = DelayedSubmission(task)
    # no limit on time-outs: submitit takes each preemption for one where the time limit is 10 minutes or less
    delayed.set_timeout(request.job.time_minutes, 1 << 30)
    files.write_bytes(request.run.task_pickle(request.link), pickle.dumps(delayed))


class Unanswered(UserError):
    """sbatch gave up without Slurm's answer: a job may be there all the same."""


def submit(request: JobRequest, held: Sequence[int] = ()) -> str:
    """sbatch one job, or one array; the script's name says its token.

    Args:
        held: Descriptors of locks that sbatch keeps, should this process die before it.

    Returns:
        The job id; of an array, that of the whole.

    Raises:
        UserError: sbatch refused; its own words are in the message.
        Unanswered: It is not known whether it did.
    """
    folder = request.run.submitit_dir
    folder.mkdir(parents=True, exist_ok=True)
    job_env.keep(request.run, request.job)
    sharing.close(request.run.path)  # before the script is there, which Slurm will run as this user
    script = folder / script_name(request.token)
    files.write_text(script, render(request))
    try:
        done = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, check=False,
                              encoding="utf-8", errors="replace",
                              env=outside_environment(os.environ), pass_fds=held, timeout=SUBMIT_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unanswered(f"sbatch gave no answer to the {request.link} job: {error}") from None
    files.kill_point("sbatch-answered", script)
    if done.returncode != 0:
        kind = Unanswered if SAYS_NO_ANSWER.search(done.stderr) else UserError
        raise kind(f"sbatch refused the {request.link} job: {said(done.stderr)}")
    job_id = job_id_in(done.stdout)
    if job_id is None:
        raise Unanswered(f"sbatch did not say the id of the {request.link} job: {said(done.stdout)}")
    with contextlib.suppress(OSError):
        os.symlink(script.name, folder / f"{job_id}_submission.sh")
    return job_id


def submit_script(script: Path) -> str:
    """sbatch a job that is not part of a chain; its id.

    Raises:
        UserError: sbatch refused, or did not answer.
    """
    try:
        done = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, check=False, encoding="utf-8",
                              errors="replace", env=outside_environment(os.environ), timeout=SUBMIT_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"sbatch gave no answer: {error}") from None
    job_id = job_id_in(done.stdout)
    if done.returncode != 0 or job_id is None:
        raise UserError(f"sbatch refused: {said(done.stderr) or said(done.stdout)}")
    return job_id


def submit_and_wait(script: Path) -> tuple[subprocess.Popen[str], str]:
    """sbatch a job; the process, which ends with the job and its exit code, and the job's id.

    Raises:
        UserError: sbatch refused.
    """
    process = subprocess.Popen(["sbatch", "--parsable", "--wait", str(script)], stdout=subprocess.PIPE,
                               encoding="utf-8", errors="replace",
                               stderr=subprocess.PIPE, env=outside_environment(os.environ), start_new_session=True)
    assert process.stdout is not None and process.stderr is not None
    answer = ""
    while (job_id := job_id_in(answer)) is None and (line := process.stdout.readline()):
        answer += line
    if job_id is None:
        raise UserError(f"sbatch refused the check's job: {said(process.stderr.read()) or said(answer)}")
    return process, job_id


def job_id_in(answer: str) -> str | None:
    """The job id in the answer of ``sbatch --parsable``; None if it is unknown.

    A site's wrapper may print more around it, or lose the option: then sbatch says it in words.
    """
    for pattern in (r"(\d+)(?:;\S+)?", r"Submitted batch job (\d+)(?: on cluster \S+)?"):
        found = {m[1] for line in answer.splitlines() if (m := re.fullmatch(pattern, line.strip()))}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def refusal(request: JobRequest, timeout: float = COMMAND_TIMEOUT) -> str | None:
    """Why Slurm would not take a job (``sbatch --test-only``), or None. Dependencies are left out."""
    script = render(replace(request, after=None))
    try:
        done = subprocess.run(["sbatch", "--test-only"], input=script, capture_output=True,
                              encoding="utf-8", errors="replace", timeout=timeout, check=False,
                              env=outside_environment(os.environ))
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else said(done.stderr)


def local_executor(run: Run, job: jobs.Job, tasks: int) -> Any:
    """submitit's executor for one machine: the same tasks, signals and logs as on Slurm."""
    from submitit.local.local import LocalExecutor

    executor = LocalExecutor(run.submitit_dir, python=shlex.quote(python_of(job)))
    gpus = visible_gpus(os.environ, tasks) if job.device == "cuda" else []
    executor.update_parameters(tasks_per_node=tasks, timeout_min=parse_time(job.time), gpus_per_node=len(gpus),
                               visible_gpus=gpus, stderr_to_stdout=True, signal_delay_s=job.signal_lead)
    return executor
