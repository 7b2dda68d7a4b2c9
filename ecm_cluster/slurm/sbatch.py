"""What a job of the chain asks of Slurm: resources, options, and the shell lines around the program."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..base.units import parse_time
from ..freeze import snapshot
from ..job import job as jobs
from ..job import sbatch_options, sharing
from ..rundir import job_env
from ..rundir.run import Run
from . import batch_shell

# Everything of these prefixes describes the job that the submitting shell may itself run in; inside the new job it
# would be read as the new job's own (SLURM_CPU_BIND alone has made jobs three times slower).
LEAKING = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_", "SUBMITIT_", "PMI_", "PMIX_", "TORCHELASTIC_")
LEAKING_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "MASTER_ADDR",
                 "MASTER_PORT", "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES")
TOKEN_ENV = "ECM_CLUSTER_TOKEN"  # the token of the job that a process belongs to
KEPT = ("SLURM_CONF",)  # where the commands find their cluster


@dataclass(frozen=True)
class Request:
    """What one job of the chain asks of the cluster.

    Attributes:
        stage: Name in the chain: ``train``, ``evaluate``.
        token: The job's comment, by which it is found again.
        after: Job id that must have ended well before this one starts, or a dependency in Slurm's own words.
        elements: Elements of a job array; 1: a plain job.
        at_once: How many of them may run at the same time.
        setup: Shell lines before srun; None: those of a run.
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
    elements: int = 1
    at_once: int = 1
    setup: Sequence[str] | None = None

    @property
    def tasks(self) -> int:
        return self.nodes * self.gpus

    @property
    def title(self) -> str:
        return self.run.name if self.stage == "train" else f"{self.run.name}.{self.stage}"

    @property
    def options(self) -> dict[str, Any]:
        """The user's own sbatch options; None: a line of the launcher's that is left off."""
        return sbatch_options.own(self.job.slurm, self.gpus if self.job.device == "cuda" else 0)

    @property
    def left_off(self) -> set[str]:
        """Options that the script must not have, although the launcher or submitit writes them."""
        return sbatch_options.left_off(self.options)


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
        # Slurm fails a script whose output it cannot open, before its first line: the script opens the log itself
        "output": "/dev/null",
    }
    if job.reservation:
        extra["reservation"] = job.reservation
    if job.device == "cuda":
        extra["gpus-per-node"] = f"{job.gpu_type}:{request.gpus}" if job.gpu_type else request.gpus
    extra.update({name: value for name, value in request.options.items() if value is not None})
    # -K1: when a rank dies the others end. srun does not inherit --cpus-per-task since Slurm 22.05, and it inherits
    # sbatch's --export, which a site or a job may have set to NONE
    srun = ["-K1", "--export=ALL"]
    if "cpus-per-task" not in request.left_off:
        srun.append(f"--cpus-per-task={job.cpus_per_gpu}")
    srun += sbatch_options.srun_arguments(job.srun)
    memory = job.memory_mib
    parameters: dict[str, Any] = {
        "job_name": request.title, "nodes": request.nodes, "ntasks_per_node": request.gpus,
        "cpus_per_task": job.cpus_per_gpu, "mem": memory and f"{memory * request.gpus}M",
        "time": parse_time(request.time), "partition": request.partition, "account": job.account,
        "qos": job.qos, "constraint": job.constraint, "exclude": job.exclude,
        "exclusive": job.exclusive or None, "comment": request.token, "signal_delay_s": job.signal_lead,
        "dependency": f"afterok:{request.after}" if request.after and ":" not in request.after else request.after,
        "additional_parameters": extra, "stderr_to_stdout": True,
        "setup": setup_lines(request) if request.setup is None else list(request.setup),
        "srun_args": srun,
    }
    if request.elements > 1:
        parameters["array_parallelism"] = request.at_once
    return {k: v for k, v in parameters.items() if v is not None}


def setup_lines(request: Request) -> list[str]:
    """Shell lines of the batch script before srun: the user's, the environment, and the task's pickle."""
    run = request.run
    # submitit's name for this job: that of an array's element is made of two numbers
    job_id = "${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"
    pickle = shlex.quote(str(run.submitit_dir)) + f'/"{job_id}"_submitted.pkl'
    spare = shlex.quote(str(run.task_pickle(request.stage)))
    python, path = python_of(request.job), os.pathsep.join(snapshot.python_path(run.code_dir))
    return [
        *sharing.lines(request.job.share),
        f"export {TOKEN_ENV}={shlex.quote(request.token)}",
        *batch_shell.on_slurm(run, request.stage, python, path, request.job.exclude,
                              stand_in=sys.executable if request.job.srun else None),
        *([f"cd {shlex.quote(str(run.logs_dir))}"] if "chdir" in request.left_off else []),
        *environment_lines(run, request.job),
        # the former version's submit put the pickle there
        f"pickle={pickle}",
        f'[ -e "$pickle" ] || cp {spare} "$pickle"',
        *batch_shell.before_srun(),
    ]


def task_command(job: jobs.Job) -> str:
    """The shell words that start Python in a task.

    SIGTERM and SIGUSR2 are ignored until the task's own handlers stand: before, they would end it and so the job.
    """
    return """sh -c 'trap "" TERM USR2; exec "$0" "$@"' """ + shlex.quote(python_of(job))


def environment_lines(run: Run, job: jobs.Job) -> list[str]:
    """Shell lines that make the environment of a job: its variables, the user's own lines, and the run's code.

    The variables are there for ``setup``, and hold against it.
    """
    paths = os.pathsep.join(snapshot.python_path(run.code_dir))
    variables = job_env.lines(run, job)
    return [
        *(variables if job.setup else []),
        *batch_shell.guarded(job.setup),
        *variables,
        f"export PYTHONPATH={shlex.quote(paths)}${{PYTHONPATH:+:$PYTHONPATH}}",
    ]


class Gpu(int):
    """A GPU by its name in ``CUDA_VISIBLE_DEVICES``, which may be a UUID or that of a MIG instance.

    submitit takes integers only, and writes them with ``str``.
    """

    name: str

    def __new__(cls, name: str) -> Gpu:
        made = super().__new__(cls)
        made.name = name
        return made

    def __str__(self) -> str:
        return self.name


def visible_gpus(environ: Mapping[str, str], count: int) -> list[Gpu]:
    """The GPUs of a job on this machine: those that the user's shell names, in its words, else the first ``count``.

    Fewer than ``count`` where it names fewer; the ranks then say what is missing.
    """
    named = environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(count)) if named is None else filter(None, (name.strip() for name in named.split(",")))
    return [Gpu(name) for name in names][:count]


def outside_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment without the traces of a job that this process may run in."""
    return {k: v for k, v in environ.items()
            if k in KEPT or not (k.startswith(LEAKING) or k in LEAKING_NAMES or k == TOKEN_ENV)}
