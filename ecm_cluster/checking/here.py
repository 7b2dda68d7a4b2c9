"""The check on the submitting machine: a process of the job's Python, on the CPU, with a time limit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..base import folders, processes
from ..freeze import snapshot
from ..plan import create, planning
from ..slurm.sbatch import outside_environment, python_of
from . import trial_run
from .findings import ALONE_ENV, EVERYTHING, Report, finished, read

DOUBT_SECONDS = 40.0  # extra time to look into a possible problem, rather than submit a job that may fail


def look(plan: planning.Plan, frozen: create.Frozen, seconds: float) -> Report:
    """Check on this machine's CPU, with a time limit."""
    print(f"checking the job on this machine for up to {seconds:.0f} s (--no-check skips it)", file=sys.stderr)
    try:
        with folders.temporary(Path(tempfile.gettempdir()), "ecm-cluster-check-") as folder:
            return _look(plan, frozen, folder, seconds)
    except OSError as error:
        return Report(skipped={EVERYTHING: f"could not create a temporary directory ({error.strerror})"})


def _look(plan: planning.Plan, frozen: create.Frozen, folder: Path, seconds: float) -> Report:
    run = trial_run.create(plan, frozen, folder)
    findings, python = folder / "findings", python_of(plan.job)
    env = {**outside_environment(os.environ), **plan.job.env, ALONE_ENV: str(os.getpid()),
           "TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": os.pathsep.join(
               filter(None, [*snapshot.python_path(run.code_dir), os.environ.get("PYTHONPATH")]))}
    try:
        with started(processes.command(python, "checks", run.path, findings), env, folder) as process:
            for time_left in (seconds, DOUBT_SECONDS):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(time_left)
                if not read(findings).doubt:
                    break
            return finished(read(findings), process.poll(), seconds)
    except OSError as error:
        return Report(skipped={EVERYTHING: f"could not start {python} here ({error.strerror})"})


@contextlib.contextmanager
def started(command: list[str], env: dict[str, str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in its own session, so that its children are killed with it."""
    process = subprocess.Popen(command, env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
