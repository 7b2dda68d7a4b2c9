"""``submit --check=job``: the same check as a short job with the run's resources, on a GPU and at full size."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ..backends import choose
from ..base import folders, processes
from ..plan import create, planning
from ..slurm.sbatch import python_of
from . import trial_run
from .findings import Report, finished, read

MINUTES = 10  # time limit of the job
POLL_SECONDS = 0.3  # of the user's wait; it looks at a local process, not at Slurm
LATE_SECONDS = 2.0  # until the job's last writes are visible on this machine (NFS caches attributes)
LAST_LINES = 3  # of the job's output in a message


def look(plan: planning.Plan, frozen: create.Frozen) -> Report:
    """Submit the check as a job of one rank, wait for it, and read its findings. Ctrl-C cancels it.

    Raises:
        UserError: It could not be submitted.
    """
    runs_dir = folders.absolute(plan.job.runs_dir)
    with folders.temporary(runs_dir, ".check-") as folder:  # next to the runs: storage that nodes can access
        return _look(plan, frozen, folder)


def _look(plan: planning.Plan, frozen: create.Frozen, folder: Path) -> Report:
    run, findings, log = trial_run.create(plan, frozen, folder), folder / "findings", folder / "log"
    command = processes.command(python_of(plan.job), "checks", run.path, findings)
    with choose.by_name(plan.where).short_job(run, plan.job, command, log, MINUTES) as job:
        print(f"checking the job in {job.called} for up to {MINUTES} min (Ctrl-C cancels it)", file=sys.stderr)
        while job.process.poll() is None and not read(findings).over:
            time.sleep(POLL_SECONDS)
        code, end = job.process.poll(), time.monotonic() + LATE_SECONDS
        while code is not None and not read(findings).over and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
        report = finished(read(findings), code, MINUTES * 60)
        if not report.over:
            said = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
            last = "; ".join([line.strip() for line in said if line.strip()][-LAST_LINES:])
            report.failure = f"check: {job.called} ended with exit code {code} before the check finished" + (
                f"; its output: {last}" if last else "") + "; fix the job's setup, resources or partition"
        return report
