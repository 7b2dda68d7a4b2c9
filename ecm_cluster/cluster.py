"""The only file that talks to Slurm or to submitit: probe, render, submit, query, requeue, cancel.

submitit is imported inside the functions (0.1 s that ``--help`` need not wait for).
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from . import files
from . import job as jobs
from .errors import UserError
from .job_states import JobState, of_arrays
from .request import Request, outside_environment, python_of, sbatch_parameters, task_command, visible_gpus
from .run import Run
from .values import parse_time

COMMAND_TIMEOUT = 60  # seconds


def slurm_available() -> bool:
    """Whether this machine has Slurm's commands."""
    return shutil.which("sbatch") is not None


@contextlib.contextmanager
def _outside() -> Iterator[None]:
    saved = dict(os.environ)
    os.environ.clear()
    os.environ.update(outside_environment(saved))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)


def _executor_class() -> type:
    from submitit.slurm.slurm import SlurmExecutor

    class Executor(SlurmExecutor):
        left_off: set[str] = set()

        @classmethod
        def affinity(cls) -> int:
            return 2  # a dry run renders the script on machines without Slurm too

        def _make_submission_file_text(self, command: str, uid: str) -> str:
            head, mark, rest = super()._make_submission_file_text(command, uid).partition("\n\n# setup\n")
            lines = [line for line in head.splitlines()
                     if line.removeprefix("#SBATCH --").partition("=")[0] not in self.left_off]
            return "\n".join(lines) + mark + rest

        def _submit_command(self, command: str) -> Any:
            submitted = super()._submit_command(command)
            files.kill_point("sbatch-answered", submitted.paths.folder)
            return submitted

    return Executor


def _executor(request: Request) -> Any:
    executor = _executor_class()(request.run.submitit_dir, python=task_command(request.job))
    executor.update_parameters(**sbatch_parameters(request))
    executor.left_off = request.left_off
    return executor


def render(request: Request) -> str:
    """The exact sbatch script of one job; nothing is written."""
    executor = _executor(request)
    if request.elements > 1:
        executor.parameters["map_count"] = request.elements  # as submitit's own array does
    return executor._make_submission_file_text(executor._submitit_command_str, "")


def write_task(request: Request, task: Callable[[], Any]) -> None:
    """Put the task's pickle where a job whose submitter died finds it."""
    from submitit.core.utils import DelayedSubmission

    delayed = DelayedSubmission(task)
    delayed.set_timeout(parse_time(request.time), 1 << 30)
    files.write_bytes(request.run.task_pickle(request.stage), pickle.dumps(delayed))


def submit(request: Request, task: Callable[[], Any]) -> str:
    """sbatch one job, or one array.

    Returns:
        The job id; of an array, that of the whole.

    Raises:
        UserError: sbatch refused; its own words are in the message.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    # submitit prints what sbatch says, which the error says again
    with _outside(), contextlib.redirect_stderr(io.StringIO()):
        try:
            executor = _executor(request)
            if request.elements == 1:
                return str(executor.submit(task).job_id)
            with executor.batch():
                elements = [executor.submit(task) for _ in range(request.elements)]
            return str(elements[0].job_id).partition("_")[0]
        except (FailedJobError, FailedSubmissionError) as error:
            text = str(getattr(error.__cause__, "stderr", None) or error)
            raise UserError(f"sbatch refused the {request.stage} job: {_said(text)}") from None


def refusal(request: Request) -> str | None:
    """Why Slurm would not take a job (``sbatch --test-only``), or None. Dependencies are left out."""
    script = render(replace(request, after=None))
    with _outside():
        try:
            done = subprocess.run(["sbatch", "--test-only"], input=script, capture_output=True, text=True,
                                  timeout=COMMAND_TIMEOUT, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    return None if done.returncode == 0 else _said(done.stderr)


def _said(text: str) -> str:
    """sbatch's own words, in one line."""
    lines = [line.split("error: ", 1)[-1].strip() for line in text.splitlines() if line.strip()]
    return "; ".join(dict.fromkeys(lines))


# ---------------------------------------------------------------------------------------------- asking Slurm


def ask(*command: str, timeout: float = COMMAND_TIMEOUT) -> str | None:
    """Output of a Slurm command, or None where it is missing, fails or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False,
                              stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def query(job_ids: Sequence[str]) -> dict[str, JobState] | None:
    """The states of many jobs, in one squeue call, and one sacct call for those that squeue has forgotten.

    A job that neither knows is not in the answer; None where neither answers.
    """
    wanted = set(job_ids)
    queue = _queue()
    found = {j.job_id: j for j in queue or [] if j.job_id in wanted}
    missing = sorted(wanted - set(found))
    if missing:
        out = ask("sacct", "-X", "-n", "-P", "-o", "JobID,State,Reason,Comment,Start", "-j", ",".join(missing))
        if queue is None and out is None:
            return None
        rows = [[*line.split("|"), "", "", ""][:5] for line in (out or "").splitlines()]
        found |= {j.job_id: j for j in of_arrays(JobState(r[0], r[1].split(" ")[0], *r[2:]) for r in rows)}
    return found


def _queue() -> list[JobState] | None:
    """The user's jobs; None where Slurm does not answer, which is not the same as none."""
    out = ask("squeue", "--me", "-h", "-a", "-t", "all", "-o", "%i|%T|%r|%S|%k")
    if out is None:
        return None
    rows = [[*line.split("|", 4), "", "", "", ""][:5] for line in out.splitlines()]
    return of_arrays(JobState(r[0].strip(), r[1], r[2], r[4], r[3]) for r in rows)


def find_by_token(token: str) -> str | None:
    """The id of the job that carries this comment, if Slurm still knows one.

    Raises:
        UserError: Slurm does not answer; then a job may be there, and submitting another would make two.
    """
    known = _queue()
    if known is None:
        raise UserError("cluster: squeue does not answer, so it is not known whether a job was submitted already; "
                        "submit again when it does")
    for state in known:
        if state.comment == token:
            return state.job_id
    return None


def can_ask() -> bool:
    """Whether this machine has what asks about a job: some sites leave it out on compute nodes."""
    return shutil.which("scontrol") is not None


def show_job(job_id: str, timeout: float = 3.0) -> dict[str, str] | None:
    """``scontrol show job`` as a dict, or None where Slurm does not answer in time."""
    out = ask("scontrol", "-o", "show", "job", job_id, timeout=timeout)
    if not out:
        return None
    return dict(re.findall(r"(\S+?)=(.*?)(?=\s+[A-Za-z:/]+=|\s*$)", out.splitlines()[0]))


def past_states(job_id: str) -> list[str]:
    """How each start of a job ended, oldest first, as accounting has it; empty without accounting."""
    out = ask("sacct", "-D", "-X", "-n", "-P", "-o", "JobIDRaw,State,Start", "-j", job_id, timeout=10.0) or ""
    rows = [line.split("|") for line in out.splitlines() if line.count("|") == 2]
    return [state.split(" ")[0] for _, state, _ in sorted(rows, key=lambda row: row[2])]


def requeue(job_id: str, restart: int) -> bool:
    """Ask Slurm to run the job again under the same id; False where it refuses.

    Asked again where it fails for no reason that Slurm tells: under load an answer gets lost, and the job with it.

    Args:
        restart: How often Slurm had restarted the job when this start of it began.
    """
    for pause in (1.0, 2.0, 0.0):
        if ask("scontrol", "requeue", job_id) is not None:
            return True
        answer = show_job(job_id) if can_ask() else {}
        if answer is not None and int(answer.get("Restarts") or 0) > restart:
            return True  # it was only the answer that got lost
        if answer is not None and (answer.get("Requeue") != "1" or answer.get("JobState") != "RUNNING"):
            return False
        time.sleep(pause)
    return False


def depend(job_id: str, dependency: str) -> bool:
    """Let a job that has not started wait for another one, e.g. ``afterok:7``; False where it does not.

    Of an array, those elements that have not started.
    """
    # of an array Slurm changes what it can, and says that it failed where an element has ended
    ask("scontrol", "update", f"JobId={job_id}", f"Dependency={dependency}")
    answers = (ask("scontrol", "-o", "show", "job", job_id) or "").splitlines()
    # Slurm also takes the change for a job that it is about to end, since what it waited for has failed
    pending = [line for line in answers if "JobState=PENDING" in line]
    return bool(pending) and all(f"Dependency={dependency}" in line for line in pending)


def release(job_id: str) -> bool:
    """Let a job wait for no other job any more; False where Slurm refuses, or cannot be asked from here."""
    return ask("scontrol", "update", f"JobId={job_id}", "Dependency=") is not None


def leave_out(job_id: str, nodes: str) -> bool:
    """Keep a job that has not started off all of these nodes, a host list; False where Slurm refuses."""
    return ask("scontrol", "update", f"JobId={job_id}", f"ExcNodeList={nodes}") is not None


def cancel(job_id: str) -> bool:
    """scancel; False where Slurm refuses."""
    return ask("scancel", job_id) is not None


# ---------------------------------------------------------------------------------------------- one machine


def local_executor(run: Run, job: jobs.Job, tasks: int) -> Any:
    """submitit's executor for one machine: the same tasks, signals and logs as on Slurm."""
    from submitit.local.local import LocalExecutor

    executor = LocalExecutor(run.submitit_dir, python=shlex.quote(python_of(job)))
    gpus = visible_gpus(os.environ, tasks) if job.device == "cuda" else []
    executor.update_parameters(tasks_per_node=tasks, timeout_min=parse_time(job.time), gpus_per_node=len(gpus),
                               visible_gpus=gpus, stderr_to_stdout=True, signal_delay_s=job.signal_lead)
    return executor
