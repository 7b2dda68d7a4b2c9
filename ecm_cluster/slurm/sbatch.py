"""What a job of the chain requests from Slurm: resources, options, and the shell lines around the program."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..freeze import snapshot
from ..job import job as jobs
from ..job import sbatch_options, sharing
from ..rundir import job_env
from ..rundir.run import Run
from . import batch_shell

# Variables with these prefixes describe the job that the submitting shell may itself run in; the new job would read
# them as its own (SLURM_CPU_BIND alone has made jobs three times slower).
LEAKING = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_", "SUBMITIT_", "PMI_", "PMIX_", "TORCHELASTIC_")
LEAKING_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "MASTER_ADDR",
                 "MASTER_PORT", "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES")
TOKEN_ENV = "ECM_CLUSTER_TOKEN"  # the token of the job that a process belongs to
KEPT = ("SLURM_CONF",)  # how the commands find their cluster
KEPT_HERE = (*KEPT, "CUDA_VISIBLE_DEVICES")  # on one machine the user's choice holds


@dataclass(frozen=True)
class JobRequest:
    """What one job of the chain requests from the cluster.

    Attributes:
        link: Name in the chain: ``train``, ``evaluate``.
        token: The job's comment, by which it is found again.
        after: Job id that must have ended well before this one starts, or a dependency in Slurm's own words.
        elements: Elements of a job array; 1: a plain job.
        at_once: How many of them may run concurrently.
        setup: Shell lines before srun; None: those of a run.
    """

    run: Run
    job: jobs.Job
    link: str
    token: str
    after: str | None = None
    elements: int = 1
    at_once: int = 1
    setup: Sequence[str] | None = None

    @property
    def title(self) -> str:
        return self.run.name if self.link == "train" else f"{self.run.name}.{self.link}"

    @property
    def options(self) -> dict[str, Any]:
        """The user's own sbatch options; None: a line of the launcher that is omitted."""
        return sbatch_options.own(self.job.slurm, self.job.gpus if self.job.device == "cuda" else 0)

    @property
    def omitted(self) -> set[str]:
        """Options that the script must not have although the launcher or submitit writes them."""
        return sbatch_options.omitted(self.options)


def python_of(job: jobs.Job) -> str:
    """The interpreter on the compute nodes."""
    return job.python or sys.executable


def sbatch_parameters(request: JobRequest) -> dict[str, Any]:
    """submitit's parameters for one job: what the job file requests, and what a run needs to be requeued."""
    job = request.job
    extra: dict[str, Any] = {
        **_plain_options(job),
        "requeue": True,
        # a job behind one that failed ends instead of pending forever
        "kill-on-invalid-dep": "yes",
        # not the submitter's directory: Python would import this package from a checkout there, not the run's copy
        "chdir": str(request.run.logs_dir),
        # Slurm fails a script whose output it cannot open before its first line, so the script opens the log itself
        "output": "/dev/null",
    }
    if job.device == "cuda":
        extra["gpus-per-node"] = f"{job.gpu_type}:{job.gpus}" if job.gpu_type else job.gpus
    extra.update({name: value for name, value in request.options.items() if value is not None})
    # -K1: when a rank dies, the others end. srun does not inherit --cpus-per-task since Slurm 22.05, and it inherits
    # sbatch's --export, which a site or a job may have set to NONE
    srun = ["-K1", "--export=ALL"]
    if "cpus-per-task" not in request.omitted:
        srun.append(f"--cpus-per-task={job.cpus_per_gpu}")
    srun += sbatch_options.srun_arguments(job.srun)
    memory = job.memory_mib
    parameters: dict[str, Any] = {
        "job_name": request.title, "nodes": job.nodes, "ntasks_per_node": job.gpus,
        "cpus_per_task": job.cpus_per_gpu, "mem": memory and f"{memory * job.gpus}M", "time": job.time_minutes,
        "exclusive": job.exclusive or None, "comment": request.token, "signal_delay_s": job.signal_lead,
        "dependency": f"afterok:{request.after}" if request.after and ":" not in request.after else request.after,
        "additional_parameters": extra, "stderr_to_stdout": True,
        "setup": setup_lines(request) if request.setup is None else list(request.setup),
        "srun_args": srun,
    }
    if request.elements > 1:
        parameters["array_parallelism"] = request.at_once
    return {k: v for k, v in parameters.items() if v is not None}


def _plain_options(job: jobs.Job) -> dict[str, Any]:
    """What goes to sbatch as it is, by the names of its options."""
    return {one.slurm: getattr(job, name) for name, one in jobs.OPTIONS.items()
            if isinstance(one.slurm, str) and getattr(job, name) not in (None, False)}


def setup_lines(request: JobRequest) -> list[str]:
    """Shell lines of the batch script before srun: the user's, the environment, and the task's pickle."""
    run = request.run
    # submitit's name for this job: that of an array's element is made of two numbers
    job_id = "${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"
    pickle = shlex.quote(str(run.submitit_dir)) + f'/"{job_id}"_submitted.pkl'
    spare = shlex.quote(str(run.task_pickle(request.link)))
    python, path = python_of(request.job), os.pathsep.join(snapshot.python_path(run.code_dir))
    return [
        *sharing.lines(request.job.share),
        f"export {TOKEN_ENV}={shlex.quote(request.token)}",
        *batch_shell.on_slurm(run, request.link, python, path, request.job.exclude,
                              stand_in=sys.executable if request.job.srun else None),
        *([f"cd {shlex.quote(str(run.logs_dir))}"] if "chdir" in request.omitted else []),
        *environment_lines(run, request.job),
        # a submission of the previous version put the pickle there
        f"pickle={pickle}",
        f'[ -e "$pickle" ] || cp {spare} "$pickle"',
        *batch_shell.before_srun(),
    ]


def task_command(job: jobs.Job) -> str:
    """The shell words that start Python in a task.

    SIGTERM and SIGUSR2 are ignored until the task's own handlers are installed: until then they would end the job.
    """
    return """sh -c 'trap "" TERM USR2; exec "$0" "$@"' """ + shlex.quote(python_of(job))


def environment_lines(run: Run, job: jobs.Job) -> list[str]:
    """Shell lines that make the environment of a job: its variables, the user's own lines, and the run's code.

    The variables are set before ``setup``, and again after it.
    """
    paths = os.pathsep.join(snapshot.python_path(run.code_dir))
    variables = job_env.lines(run, job)
    return [
        *(variables if job.setup else []),
        *batch_shell.guarded(job.setup),
        *variables,
        f"export PYTHONPATH={shlex.quote(paths)}${{PYTHONPATH:+:$PYTHONPATH}}",
    ]


class VisibleGpu(int):
    """A GPU by its name in ``CUDA_VISIBLE_DEVICES``, which may be a UUID or that of a MIG instance.

    submitit takes integers only, and writes them with ``str``.
    """

    name: str

    def __new__(cls, name: str) -> VisibleGpu:
        made = super().__new__(cls)
        made.name = name
        return made

    def __str__(self) -> str:
        return self.name


def visible_gpus(environ: Mapping[str, str], count: int) -> list[VisibleGpu]:
    """The GPUs of a job on this machine: those that the user's shell names, else the first ``count``.

    Fewer than ``count`` if it names fewer; the ranks then report what is missing.
    """
    named = environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(count)) if named is None else filter(None, (name.strip() for name in named.split(",")))
    return [VisibleGpu(name) for name in names][:count]


def outside_environment(environ: Mapping[str, str], kept: Sequence[str] = KEPT) -> dict[str, str]:
    """An environment without the variables of a job that this process may run in, except those that are kept."""
    return {k: v for k, v in environ.items()
            if k in kept or not (k.startswith(LEAKING) or k in LEAKING_NAMES or k == TOKEN_ENV)}
