"""What a job keeps secret, in files that only the run's owner can read: the values of ``env``, the URLs of ``notify``.

Records, scripts and command lines contain the names only. The batch script sources the variables at each start; no
process of a job reads the URLs.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping

from ..base import files
from ..base.errors import UserError
from ..base.reading import Unreadable, read_text
from ..base.units import SET
from ..job import notify_options
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


def write_all(run: Run, job: Job) -> None:
    """Store the values, and where messages about the run go, in a new run."""
    write(run, job)
    if job.notify.get("urls"):
        files.write_text(run.notify_file, "".join(f"{url}\n" for url in job.notify["urls"]), private=True)
    else:
        run.notify_file.unlink(missing_ok=True)


def urls(run: Run) -> list[str]:
    """Where messages about a run go: a URL a line, which its owner may edit; empty if that cannot be read."""
    try:
        lines = read_text(run.notify_file).splitlines()
    except (OSError, Unreadable):
        return []
    return [line.strip() for line in lines if line.strip()]


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


def same_notify(run: Run, begun: Job, asked: Job) -> bool:
    """Whether a job tells the same, to the same, as the run was submitted with."""
    return notify_options.masked(begun.notify) == notify_options.masked(asked.notify) and \
        urls(run) == asked.notify.get("urls", [])


def values(run: Run, job: Job) -> dict[str, str]:
    """The values of ``env``, as far as they are still there."""
    kept = {name: value for name, value in job.env.items() if value != SET}  # in the record of an earlier version
    try:
        words = shlex.split(read_text(run.env_file))
    except (OSError, Unreadable, ValueError):
        return kept
    return {**kept, **dict(word.split("=", 1) for word in words if "=" in word)}


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
