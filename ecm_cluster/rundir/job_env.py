"""The ``env:`` block of a job, whose values may be secrets: stored in one file that only the run's owner can read.

Records, scripts and command lines contain the names only. The batch script sources the file at each start.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping

from ..base import files
from ..base.errors import UserError
from ..base.units import SET
from ..job.job import Job
from .run import Run


def text(env: Mapping[str, str]) -> str:
    """Shell lines that export the variables, with all values quoted."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in env.items())


def write(run: Run, job: Job) -> None:
    """Store the values in the run, replacing earlier ones."""
    if job.env:
        files.write_text(run.env_file, text(job.env), private=True)
    else:
        run.env_file.unlink(missing_ok=True)


def keep(run: Run, job: Job) -> None:
    """Make sure that the next start finds the values; runs of earlier versions have them in their record.

    Raises:
        UserError: They are lost.
    """
    if not job.env or run.env_file.exists():
        return
    if all(value == SET for value in job.env.values()):
        raise UserError(f"env: the values of {', '.join(job.env)} are lost, as {run.env_file} does not exist; restore "
                        "it, or submit a new run")
    write(run, job)


def same(run: Run, begun: Job, asked: Job) -> bool:
    """Whether a job has the values that the run was submitted with."""
    if set(begun.env.values()) - {SET}:
        return begun.env == asked.env
    try:
        return (run.env_file.read_text(encoding="utf-8") if begun.env else "") == text(asked.env)
    except (OSError, ValueError):
        return False


def lines(run: Run, job: Job) -> list[str]:
    """Shell lines that set a job's variables; a start that cannot read them fails."""
    return [f". {shlex.quote(os.fspath(run.env_file))} || exit 1"] if job.env else []
