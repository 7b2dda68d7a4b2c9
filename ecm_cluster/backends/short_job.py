"""A short job beside the runs: submitted, waited for, and cancelled if the process that waits for it ends."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..base import files
from ..base.units import parse_time
from ..chain import chain
from ..job.job import Job
from ..rundir import job_env
from ..rundir.run import Run
from ..slurm import commands, launcher
from ..slurm.sbatch import KEPT_HERE, environment_lines, outside_environment
from .base import ShortJob

# what a run's own jobs need to come back, and this one does not
OF_RUNS = ("requeue", "open-mode", "signal", "comment", "output", "error", "job-name", "dependency",
           "kill-on-invalid-dep", "time")


@contextlib.contextmanager
def on_slurm(run: Run, job: Job, command: Sequence[str], log: Path, minutes: int) -> Iterator[ShortJob]:
    """Submit ``command`` with the resources of one rank of a job, its partition, setup and variables.

    Args:
        run: Whose code it imports.
        minutes: Its time limit, if the job's own is not shorter.

    Raises:
        UserError: sbatch refuses.
    """
    line = ["srun", "--export=ALL", f"--cpus-per-task={job.cpus_per_gpu}", *command]
    script = _write_script(run, job, line, log, ["job-name=ecm-cluster-check", f"time={_limit(job, minutes)}"])
    process, job_id = launcher.submit_and_wait(script)
    try:
        yield ShortJob(f"job {job_id}", process)
    finally:
        if process.poll() is None:
            commands.cancel(job_id)
            process.kill()
        process.wait()


def behind(run: Run, job: Job, command: Sequence[str], log: Path, minutes: int, others: Sequence[str]) -> str:
    """Submit ``command`` to start on one CPU of ``job`` when other jobs have ended, however; its job id.

    Raises:
        UserError: sbatch refuses.
    """
    after = ":".join(["afterany", *others])
    return launcher.submit_script(_write_script(run, job, command, log, [
        "job-name=ecm-cluster-notices", f"time={_limit(job, minutes)}", f"dependency={after}"]))


def _limit(job: Job, minutes: int) -> int:
    return min(minutes, parse_time(job.time))


def _write_script(run: Run, job: Job, command: Sequence[str], log: Path, options: Sequence[str]) -> Path:
    asked = chain.request(run, replace(job, nodes=1, gpus=1), chain.TRAIN, "check")
    header = [line for line in launcher.render(asked).splitlines() if line.startswith("#SBATCH")
              and line[len("#SBATCH --"):].partition("=")[0] not in OF_RUNS]
    header += [f"#SBATCH --{option}" for option in (*options, "no-requeue", f"output={log}")]
    script = log.with_suffix(".sh")
    files.write_text(script, "\n".join(["#!/bin/bash", *header, *_environment(run, job), shlex.join(command), ""]))
    return script


@contextlib.contextmanager
def on_this_machine(run: Run, job: Job, command: Sequence[str], log: Path) -> Iterator[ShortJob]:
    """The same as a process of this machine, with its GPUs."""
    script = log.with_suffix(".sh")
    files.write_text(script, "\n".join([*_environment(run, job), f"exec {shlex.join(command)}", ""]))
    process = subprocess.Popen(["bash", "-c", f"exec bash {shlex.quote(str(script))} > {shlex.quote(str(log))} 2>&1"],
                               env=outside_environment(os.environ, KEPT_HERE), cwd=log.parent,
                               stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        yield ShortJob(f"process {process.pid}", process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _environment(run: Run, job: Job) -> list[str]:
    """What comes before the command: a line of ``setup`` that fails ends the job, as it does a run's."""
    job_env.keep(run, job)
    return ["ecm_depth=${#BASH_SOURCE[@]}",
            'ecm_failed() { [ "$3" -gt "$ecm_depth" ] || { echo "a line of setup failed with code $1"; exit "$1"; }; }',
            *environment_lines(run, job)]
