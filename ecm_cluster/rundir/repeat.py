"""A run's record as a job file: what ``submit --like RUN`` submits again."""

from __future__ import annotations

import os
from typing import Any

from ..base import files, folders
from ..base.errors import UserError
from ..base.reading import read_text
from ..freeze.snapshot import USER
from ..job.job import OPTIONS, load
from . import job_env, runs
from .run import Run

PATHS = ("config", "data_root", "code", "scratch")  # that may be relative to where the run was submitted
NOT_AGAIN = ("name", "runs_dir")


def values(run: Run) -> dict[str, Any]:
    """The keys of a job file that submits the same job again: as it was submitted, with the config that was trained.

    What resumes changed is not part of it. The user's own modules are those of now, or, where their directory has gone,
    those of the run.

    Raises:
        UserError: It belongs to another user, whose setup lines and code would be run; or secrets of it are lost.
    """
    run.require_own("repeat")
    spec = run.spec
    record = {key: value for key, value in spec.job.as_dict().items()
              if key not in NOT_AGAIN and (key == "evaluation" or key in OPTIONS)}
    for key in PATHS:
        if record.get(key):
            record[key] = _absolute(spec.cwd, record[key])
    if spec.job.trainer is None:
        _require_unchanged(run)
        record.update(config=str(run.config_file), options={})  # which are in that config
    if record.get("code") and not os.path.isdir(record["code"]):
        record["code"] = str(run.code_folder(1) / USER)
    record["env"] = _secret(run)
    if record.get("notify", {}).get("urls"):
        record["notify"] = {**record["notify"], "urls": job_env.urls(run)}
    return {key: value for key, value in record.items() if value is not None}


def asked(word: str, job_file: str | None, flags: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    """The run of this name, and :func:`values`; name and place are added to the flags that do not have them.

    Raises:
        UserError: There is no such run, or it cannot be repeated.
    """
    if job_file:
        raise UserError("like: give either JOB or --like RUN; flags override the run's job")
    run = runs.find(word, folders.absolute(flags.get("runs_dir") or load(None, {}).runs_dir))
    flags.setdefault("runs_dir", str(run.path.parent))
    flags.setdefault("name", runs.next_name(folders.absolute(flags["runs_dir"]), stem(run)))
    return run, values(run)


def _require_unchanged(run: Run) -> None:
    """Refuse a config that is damaged, or was edited: it is not what the run trained."""
    known = run.spec.digests.get("config")
    if known and known != files.digest_text(read_text(run.config_file)):
        raise UserError(f"like: {run.config_file} has changed since {run.name} was submitted; restore the file, or "
                        f"submit what it is now with --config {run.config_file}")


def stem(run: Run) -> str:
    """What the names of its likes begin with: its own, without a number."""
    head, _, number = run.name.rpartition("-")
    return head if head and number.isdecimal() else run.name


def _absolute(folder: str, path: str) -> str:
    as_it_is = path.startswith(("$", "~", "mmdet::")) or not os.path.exists(os.path.join(folder, path))
    return path if as_it_is else os.path.join(folder, path)


def _secret(run: Run) -> dict[str, str]:
    job = run.spec.job
    known = job_env.values(run, job)
    missing = sorted(set(job.env) - set(known))
    if missing:
        raise UserError(f"like: {run.env_file} does not have the values of env ({', '.join(missing)}); restore it, or "
                        "write a job file that sets them")
    return {name: known[name] for name in job.env}
