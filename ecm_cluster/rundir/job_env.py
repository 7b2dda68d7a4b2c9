"""The ``env:`` block of a job, whose values may be secrets: kept in one file of the run that only its owner can read.

Records, scripts and command lines hold the names alone. The batch shell of each start sources the file.
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
    """The shell lines that export the variables; any text is quoted, newlines too."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in env.items())


def write(run: Run, job: Job) -> None:
    """Put the values into the run, replacing what is there."""
    if job.env:
        files.write_text(run.env_file, text(job.env), private=True)
    else:
        run.env_file.unlink(missing_ok=True)


def keep(run: Run, job: Job) -> None:
    """Make sure that a start of the run will find the values; a run of an earlier version has them in its record.

    Raises:
        UserError: They are gone.
    """
    if not job.env or run.env_file.exists():
        return
    if all(value == SET for value in job.env.values()):
        raise UserError(f"env: the values of {', '.join(job.env)} are lost, as {run.env_file} does not exist; restore "
                        "it, or submit a new run")
    write(run, job)


def same(run: Run, begun: Job, asked: Job) -> bool:
    """Whether a job asks for the values that a run was begun with."""
    if set(begun.env.values()) - {SET}:
        return begun.env == asked.env
    try:
        return (run.env_file.read_text(encoding="utf-8") if begun.env else "") == text(asked.env)
    except (OSError, ValueError):
        return False


def lines(run: Run, job: Job) -> list[str]:
    """Shell lines that give a job its variables; a start without them ends."""
    return [f". {shlex.quote(os.fspath(run.env_file))} || exit 1"] if job.env else []
