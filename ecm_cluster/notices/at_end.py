"""The short job that sends messages at the end of a run, where ``notify`` has ``from: job``.

It is not the default, as the compute nodes of many clusters have no route to the outside.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace

from ..backends import choose, short_job
from ..base import processes
from ..base.errors import UserError
from ..console import cli
from ..job.job import Job
from ..job.notify_options import Notify
from ..job.sbatch_options import name_of
from ..rundir.run import Run
from ..slurm.sbatch import python_of
from .entries import PROCESS

MINUTES = 15
MEMORY = "2G"
KEPT = ("account", "clusters", "qos", "wckey")  # of the user's further sbatch options: who pays, and where


def submit(run: Run, job: Job, ids: Mapping[str, str]) -> None:
    """Submit that job behind those of the chain, if it is asked for; where it is refused, verbs send alone."""
    asked = Notify.of(job.notify)
    if not asked.by_job or not run.notify_file.exists() or not choose.of(run).queues or not ids:
        return
    small = replace(job, nodes=1, gpus=1, device="cpu", cpus_per_gpu=1, mem_per_gpu=MEMORY, gpu_type=None,
                    constraint=None, exclusive=False, partition=asked.partition or job.partition, srun={},
                    slurm={key: value for key, value in job.slurm.items() if name_of(key) in KEPT})
    try:
        run.notices_dir.mkdir(mode=0o700, exist_ok=True)
        short_job.behind(run, small, processes.command(python_of(job), PROCESS, "--wait", run.path),
                         run.notices_job_log, MINUTES, list(ids.values()))
    except (UserError, OSError) as error:
        cli.say(f"warning: notify: no job will send messages at the end of the run ({error}); the next command does",
                sys.stderr)
