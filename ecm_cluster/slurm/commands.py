"""The only file that talks to Slurm or to submitit: probe, render, submit, query, requeue, cancel.

submitit is imported inside the functions (0.1 s that ``--help`` need not wait for).
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
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
from .job_states import script_name
from .sbatch import KEPT, JobRequest, outside_environment, python_of, sbatch_parameters, task_command, visible_gpus

COMMAND_TIMEOUT = 60  # seconds
SUBMIT_TIMEOUT = 120  # that sbatch may take: it waits for a slow slurmctld itself
SAYS_NO_ANSWER = re.compile("timed out|Zero Bytes|[Cc]onnection reset|Communication connection failure")
SETTINGS = ("SLURM_", "SQUEUE_", "SACCT_", "SCONTROL_", "SCANCEL_", "SINFO_", "SBATCH_")


def slurm_available() -> bool:
    """Whether this machine has Slurm's commands."""
    return shutil.which("sbatch") is not None


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
    delayed.set_timeout(request.job.time_minutes, 1 << 30)
    files.write_bytes(request.run.task_pickle(request.stage), pickle.dumps(delayed))


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
    sharing.close(request.run.path)
    script = folder / script_name(request.token)
    files.write_text(script, render(request))
    try:
        done = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, check=False,
                              encoding="utf-8", errors="replace",
                              env=outside_environment(os.environ), pass_fds=held, timeout=SUBMIT_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unanswered(f"sbatch gave no answer to the {request.stage} job: {error}") from None
    files.kill_point("sbatch-answered", script)
    if done.returncode != 0:
        kind = Unanswered if SAYS_NO_ANSWER.search(done.stderr) else UserError
        raise kind(f"sbatch refused the {request.stage} job: {said(done.stderr)}")
    job_id = job_id_in(done.stdout)
    if job_id is None:
        raise Unanswered(f"sbatch did not say the id of the {request.stage} job: {said(done.stdout)}")
    with contextlib.suppress(OSError):
        os.symlink(script.name, folder / f"{job_id}_submission.sh")
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
    """The job id in the answer of ``sbatch --parsable``; None where it cannot be told.

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


def said(text: str) -> str:
    """What a command of Slurm printed as its error, in one line."""
    lines = [re.split("error: |fatal: ", line, maxsplit=1)[-1].strip() for line in text.splitlines() if line.strip()]
    return "; ".join(dict.fromkeys(lines))


# ---------------------------------------------------------------------------------------------- asking Slurm


def run_command(*command: str, timeout: float = COMMAND_TIMEOUT) -> subprocess.CompletedProcess[str] | None:
    """A Slurm command without what the user's shell would have it leave out; None where it is missing or too slow."""
    try:
        return subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=timeout,
                              check=False, stdin=subprocess.DEVNULL, env=clean_environment(os.environ))
    except (OSError, subprocess.TimeoutExpired):
        return None


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment in which Slurm's commands answer what they are asked, and no setting filters or formats it."""
    return {k: v for k, v in environ.items() if k in KEPT or not k.startswith(SETTINGS)}


def ask(*command: str, timeout: float = COMMAND_TIMEOUT) -> str | None:
    """Output of a Slurm command, or None where it is missing, fails or does not answer."""
    done = run_command(*command, timeout=timeout)
    return done.stdout if done is not None and done.returncode == 0 else None


def can_ask() -> bool:
    """Whether this machine has what asks about a job: some sites leave it out on compute nodes."""
    return shutil.which("scontrol") is not None


def show_job(job_id: str, timeout: float = 3.0) -> dict[str, str] | None:
    """``scontrol show job`` as a dict, or None where Slurm does not answer in time."""
    out = ask("scontrol", "-o", "show", "job", job_id, timeout=timeout)
    if not out:
        return None
    return dict(re.findall(r"(\S+?)=(.*?)(?=\s+[A-Za-z:/]+=|\s*$)", out.splitlines()[0]))


def is_of(answer: Mapping[str, str] | None, token: str) -> bool:
    """Whether :func:`show_job` says nothing against its being the job that was submitted under a token."""
    return not (answer and token) or answer.get("Comment") == token or script_name(token) in answer.get("Command", "")


def _is_another(job_id: str, token: str) -> bool:
    """Whether an id belongs to another job than the one that was submitted under a token, which is then not touched."""
    return bool(token) and can_ask() and not is_of(show_job(job_id), token)


def past_states(job_id: str) -> list[str]:
    """How each start of a job ended, oldest first, as accounting has it; empty without accounting."""
    out = ask("sacct", "-D", "-X", "-n", "-P", "-o", "JobIDRaw,State,Start", "-j", job_id, timeout=10.0) or ""
    rows = [line.split("|") for line in out.splitlines() if line.count("|") == 2]
    return [state.split(" ")[0] for _, state, _ in sorted(rows, key=lambda row: row[2])]


def requeue(job_id: str, restart: int, token: str = "") -> bool:
    """Ask Slurm to run the job again under the same id; False where it refuses, or the id is another job's by now.

    Asked again where it fails for no reason that Slurm tells: under load an answer gets lost, and the job with it.

    Args:
        restart: How often Slurm had restarted the job when this start of it began.
        token: That it was submitted under; empty: not known.
    """
    if _is_another(job_id, token):
        return False
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


def depend(job_id: str, dependency: str, token: str = "") -> bool:
    """Let a job that has not started wait for another one, e.g. ``afterok:7``; False where it does not.

    Of an array, those elements that have not started.
    """
    if _is_another(job_id, token):
        return False
    # of an array Slurm changes what it can, and says that it failed where an element has ended
    ask("scontrol", "update", f"JobId={job_id}", f"Dependency={dependency}")
    answers = (ask("scontrol", "-o", "show", "job", job_id) or "").splitlines()
    # Slurm also takes the change for a job that it is about to end, since what it waited for has failed
    pending = [line for line in answers if "JobState=PENDING" in line]
    return bool(pending) and all(f"Dependency={dependency}" in line for line in pending)


def release(job_id: str, token: str = "") -> bool:
    """Let a job wait for no other job any more; False where Slurm refuses, or cannot be asked from here."""
    return not _is_another(job_id, token) and ask("scontrol", "update", f"JobId={job_id}", "Dependency=") is not None


def leave_out(job_id: str, nodes: str, token: str = "") -> bool:
    """Keep a job that has not started off all of these nodes, a host list; False where Slurm refuses."""
    change = ("scontrol", "update", f"JobId={job_id}", f"ExcNodeList={nodes}")
    return not _is_another(job_id, token) and ask(*change) is not None


def cancel(job_id: str, token: str = "") -> bool:
    """scancel; False where Slurm refuses."""
    return not _is_another(job_id, token) and ask("scancel", job_id) is not None


# ---------------------------------------------------------------------------------------------- one machine


def local_executor(run: Run, job: jobs.Job, tasks: int) -> Any:
    """submitit's executor for one machine: the same tasks, signals and logs as on Slurm."""
    from submitit.local.local import LocalExecutor

    executor = LocalExecutor(run.submitit_dir, python=shlex.quote(python_of(job)))
    gpus = visible_gpus(os.environ, tasks) if job.device == "cuda" else []
    executor.update_parameters(tasks_per_node=tasks, timeout_min=parse_time(job.time), gpus_per_node=len(gpus),
                               visible_gpus=gpus, stderr_to_stdout=True, signal_delay_s=job.signal_lead)
    return executor
