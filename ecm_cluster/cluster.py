"""The only file that talks to Slurm or to submitit: probe, render, submit, query, requeue, cancel.

submitit is imported inside the functions (0.1 s that ``--help`` need not wait for).
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from . import job as jobs
from .errors import UserError
from .run import Run

# Everything of these prefixes describes the job that the submitting shell may itself run in; inside the new job it
# would be read as the new job's own (SLURM_CPU_BIND alone has made jobs three times slower).
LEAKING = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_", "SUBMITIT_", "PMI_", "PMIX_", "TORCHELASTIC_")
LEAKING_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "MASTER_ADDR",
                 "MASTER_PORT", "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES")
KEPT = ("SLURM_CONF",)  # where the commands find their cluster
COMMAND_TIMEOUT = 60  # seconds


def slurm_available() -> bool:
    """Whether this machine has Slurm's commands."""
    return shutil.which("sbatch") is not None


def outside_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment without the traces of a job that this process may run in."""
    return {k: v for k, v in environ.items()
            if k in KEPT or not (k.startswith(LEAKING) or k in LEAKING_NAMES)}


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


@dataclass(frozen=True)
class Request:
    """What one job of the chain asks of the cluster.

    Attributes:
        stage: Name in the chain: ``train``, ``evaluate``.
        token: The job's comment, by which it is found again.
        after: Job id that must have ended well before this one starts.
    """

    run: Run
    job: jobs.Job
    stage: str
    nodes: int
    gpus: int
    token: str
    partition: str | None
    time: str
    after: str | None = None

    @property
    def tasks(self) -> int:
        return self.nodes * self.gpus

    @property
    def title(self) -> str:
        return self.run.name if self.stage == "train" else f"{self.run.name}.{self.stage}"


def _executor_class() -> type:
    from submitit.slurm.slurm import SlurmExecutor

    class Executor(SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            return 2  # a dry run renders the script on machines without Slurm too

    return Executor


def _executor(request: Request) -> Any:
    executor = _executor_class()(request.run.submitit_dir, python=shlex.quote(python_of(request.job)))
    executor.update_parameters(**sbatch_parameters(request))
    return executor


def python_of(job: jobs.Job) -> str:
    """The interpreter on the compute nodes."""
    return job.python or sys.executable


def sbatch_parameters(request: Request) -> dict[str, Any]:
    """submitit's parameters for one job: what the job file asks, and what a run needs to come back."""
    job = request.job
    extra: dict[str, Any] = {
        "requeue": True,
        # jobs that wait for one that failed end instead of waiting for ever
        "kill-on-invalid-dep": "yes",
        # not the submitter's folder: Python would import this package from a checkout there, not the run's copy
        "chdir": str(request.run.logs_dir),
        **{jobs._sbatch_name(k): v for k, v in job.slurm.items()},
    }
    if job.reservation:
        extra["reservation"] = job.reservation
    if job.device == "cuda":
        extra["gpus-per-node"] = f"{job.gpu_type}:{request.gpus}" if job.gpu_type else request.gpus
    parameters: dict[str, Any] = {
        "job_name": request.title, "nodes": request.nodes, "ntasks_per_node": request.gpus,
        "cpus_per_task": job.cpus_per_gpu, "mem": f"{jobs.parse_memory(job.mem_per_gpu) * request.gpus}M",
        "time": jobs.parse_time(request.time), "partition": request.partition, "account": job.account,
        "qos": job.qos, "constraint": job.constraint, "exclude": job.exclude,
        "exclusive": job.exclusive or None, "comment": request.token, "signal_delay_s": job.signal_lead,
        "dependency": f"afterok:{request.after}" if request.after else None,
        "additional_parameters": extra, "setup": setup_lines(request), "stderr_to_stdout": True,
        # -K1: when a rank dies the others end. srun does not inherit --cpus-per-task since Slurm 22.05.
        "srun_args": ["-K1", f"--cpus-per-task={job.cpus_per_gpu}"],
    }
    return {k: v for k, v in parameters.items() if v is not None}


def setup_lines(request: Request) -> list[str]:
    """Shell lines of the batch script before srun: the user's, the environment, and the task's pickle."""
    run = request.run
    paths = os.pathsep.join(code_paths(run))
    pickle = shlex.quote(str(run.submitit_dir)) + '/"${SLURM_JOB_ID}"_submitted.pkl'
    spare = shlex.quote(str(run.task_pickle(request.stage)))
    return [
        *request.job.setup,
        *(f"export {name}={shlex.quote(value)}" for name, value in {**request.job.env}.items()),
        f"export PYTHONPATH={shlex.quote(paths)}${{PYTHONPATH:+:$PYTHONPATH}}",
        # submit renames the pickle into place after sbatch has answered; if it died before, this job helps itself
        f"[ -e {pickle} ] || cp {spare} {pickle}",
    ]


def code_paths(run: Run) -> list[str]:
    """Where a run's own copy of the code is imported from, first to last."""
    from . import snapshot

    return snapshot.python_path(run.code_dir)


def render(request: Request) -> str:
    """The exact sbatch script of one job; nothing is written."""
    executor = _executor(request)
    return executor._make_submission_file_text(executor._submitit_command_str, "")


def write_task(request: Request, task: Callable[[], Any]) -> None:
    """Put the task's pickle where a job whose submitter died finds it."""
    from submitit.core.utils import DelayedSubmission

    delayed = DelayedSubmission(task)
    delayed.set_timeout(jobs.parse_time(request.time), 1 << 30)
    path = request.run.task_pickle(request.stage)
    tmp = path.with_suffix(".pkl.tmp")
    delayed.dump(tmp)
    tmp.replace(path)


def submit(request: Request, task: Callable[[], Any]) -> str:
    """sbatch one job.

    Returns:
        The job id.

    Raises:
        UserError: sbatch refused; its own words are in the message.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    with _outside():
        try:
            return str(_executor(request).submit(task).job_id)
        except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
            text = " ".join(str(getattr(error, "stderr", None) or error.__cause__ or error).split())
            words = re.findall(r"sbatch: error: (.*?)(?= sbatch: error: |$)", text)
            raise UserError(f"sbatch refused the {request.stage} job: {'; '.join(words) or text}") from None


# ---------------------------------------------------------------------------------------------- asking Slurm


def _slurm(*command: str, timeout: float = COMMAND_TIMEOUT) -> str | None:
    """Output of a Slurm command, or None where it is missing, fails or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False,
                              stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


@dataclass(frozen=True)
class JobState:
    """What Slurm says of a job: its state (``PENDING``, ``RUNNING``, …), the reason, and the comment."""

    job_id: str
    state: str
    reason: str
    comment: str
    start: str


def query(job_ids: Sequence[str]) -> dict[str, JobState]:
    """The states of many jobs, in one squeue call, and one sacct call for those that squeue has forgotten.

    A job that neither knows is not in the answer.
    """
    wanted = set(job_ids)
    found = {j.job_id: j for j in _queue() if j.job_id in wanted}
    missing = sorted(wanted - set(found))
    if missing:
        out = _slurm("sacct", "-X", "-n", "-P", "-o", "JobID,State,Reason,Comment,Start", "-j", ",".join(missing)) or ""
        for line in out.splitlines():
            job_id, state, *rest = [*line.split("|"), "", "", ""]
            found[job_id] = JobState(job_id, state.split(" ")[0], rest[0], rest[1], rest[2])
    return found


def _queue() -> list[JobState]:
    out = _slurm("squeue", "--me", "-h", "-a", "-t", "all", "-o", "%i|%T|%r|%S|%k") or ""
    jobs_found = []
    for line in out.splitlines():
        job_id, state, reason, start, comment = [*line.split("|", 4), "", "", "", ""][:5]
        jobs_found.append(JobState(job_id.strip(), state, reason, comment, start))
    return jobs_found


def find_by_token(token: str) -> str | None:
    """The id of the job that carries this comment, if Slurm still knows one."""
    for state in _queue():
        if state.comment == token:
            return state.job_id
    return None


def show_job(job_id: str, timeout: float = 3.0) -> dict[str, str] | None:
    """``scontrol show job`` as a dict, or None where Slurm does not answer in time."""
    out = _slurm("scontrol", "-o", "show", "job", job_id, timeout=timeout)
    if not out:
        return None
    return dict(re.findall(r"(\S+?)=(.*?)(?=\s+[A-Za-z:/]+=|\s*$)", out.splitlines()[0]))


def seconds_left(answer: Mapping[str, str] | None) -> float | None:
    """Seconds until the job's EndTime, from :func:`show_job`; None if it has none."""
    try:
        return (datetime.fromisoformat((answer or {})["EndTime"]) - datetime.now()).total_seconds()
    except (KeyError, ValueError):
        return None


def requeue(job_id: str) -> bool:
    """Ask Slurm to run the job again under the same id; False where it refuses."""
    return _slurm("scontrol", "requeue", job_id) is not None


def cancel(job_id: str) -> bool:
    """scancel; False where Slurm refuses."""
    return _slurm("scancel", job_id) is not None


@dataclass(frozen=True)
class Partition:
    """What a partition does, as ``scontrol show partition`` tells it."""

    name: str
    default: bool
    preempt_mode: str
    grace: int
    max_time: str


def partitions() -> list[Partition]:
    """All partitions; empty where Slurm does not answer."""
    out = _slurm("scontrol", "-o", "show", "partition", timeout=5.0) or ""
    found = []
    for line in out.splitlines():
        pairs = dict(p.split("=", 1) for p in line.split() if "=" in p)
        if "PartitionName" in pairs:
            found.append(Partition(pairs["PartitionName"], pairs.get("Default") == "YES",
                                   pairs.get("PreemptMode", ""), int(pairs.get("GraceTime", 0) or 0),
                                   pairs.get("MaxTime", "")))
    return found


# ---------------------------------------------------------------------------------------------- one machine


def local_executor(run: Run, job: jobs.Job, tasks: int) -> Any:
    """submitit's executor for one machine: the same tasks, signals and logs as on Slurm."""
    from submitit.local.local import LocalExecutor

    executor = LocalExecutor(run.submitit_dir, python=shlex.quote(python_of(job)))
    visible = [int(x) for x in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if x.strip().isdigit()]
    on_gpu = job.device == "cuda"
    parameters: dict[str, Any] = {"tasks_per_node": tasks, "timeout_min": jobs.parse_time(job.time),
                                  "gpus_per_node": tasks if on_gpu else 0, "stderr_to_stdout": True,
                                  "signal_delay_s": job.signal_lead}
    if on_gpu and visible:
        parameters["visible_gpus"] = visible
    executor.update_parameters(**parameters)
    return executor


def start_local_driver(run: Run, job: jobs.Job) -> str:
    """Start the process that carries a run through on this machine; it outlives the caller.

    Returns:
        Its pid, which is the run's job id.
    """
    env = outside_environment(os.environ)
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        env["CUDA_VISIBLE_DEVICES"] = os.environ["CUDA_VISIBLE_DEVICES"]  # on one machine the user's choice holds
    paths = [*code_paths(run), *filter(None, [env.get("PYTHONPATH")])]
    env.update(job.env)
    env["PYTHONPATH"] = os.pathsep.join(paths)
    run.logs_dir.mkdir(parents=True, exist_ok=True)
    command = [python_of(job), "-m", "ecm_cluster.node.local", str(run.path)]
    script = "\n".join([*job.setup, "exec " + shlex.join(command)])
    with open(run.local_log, "ab") as log:
        process = subprocess.Popen(["bash", "-c", f"set -e\n{script}"] if job.setup else command, env=env,
                                   cwd=run.logs_dir, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   start_new_session=True)
    return str(process.pid)
