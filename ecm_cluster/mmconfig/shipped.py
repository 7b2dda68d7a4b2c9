"""Finds configs and job files: in the working directory, or among those of this installation."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ..base import processes
from ..base.errors import UserError, one_of


def resource_dir(kind: str) -> Path:
    """The directory ``configs`` or ``jobs`` of this installation: next to the package, or below sys.prefix."""
    beside = processes.SOURCE / kind
    return beside if beside.is_dir() else Path(sys.prefix) / "share" / "ecm-cluster" / kind


def find_job_file(given: str) -> Path:
    """A job file by path, or by its name in ``jobs/`` with or without ``.yaml``."""
    found = find_in_jobs(given)
    if found is None or found.suffix == ".py":
        config = find_config(given if given.endswith(".py") else f"{given}.py")
        if given.startswith("mmdet::") or os.path.isfile(config):
            raise UserError(f"JOB: {given!r} is an mmdet config; pass it as --config {shlex.quote(given)}")
        raise one_of("JOB", given, job_names(), "expected the path of a job file (YAML), or one of: ",
                     "; an mmdet config is given with --config")
    return found.absolute()  # not resolved: messages show the path as it was typed


def job_names() -> list[str]:
    """Names of the job files of this installation."""
    return sorted(p.stem for p in resource_dir("jobs").glob("*.yaml")
                  if re.search(r"^config:", p.read_text(encoding="utf-8"), re.MULTILINE))


def find_in_jobs(given: str) -> Path | None:
    """As :func:`find_job_file`, or None if there is none."""
    shipped = resource_dir("jobs")
    return meant("JOB", given, (shipped / given, shipped / f"{given}.yaml", shipped.parent / given))


def find_config(given: str) -> str:
    """A config by path, relative to the working directory or to this installation; ``mmdet::…`` is unchanged."""
    if given.startswith("mmdet::"):
        return given
    configs = resource_dir("configs")
    found = meant("config", given, (configs.parent / given, configs / given))
    return given if found is None else str(found.resolve())  # the config reader reports a missing one


def meant(what: str, given: str, shipped: Sequence[Path]) -> Path | None:
    """The file with this name: in the working directory, else in this installation, else None.

    Raises:
        UserError: A file of that name here belongs to another user, so it could pass for this installation's.
    """
    here, ours = Path(given), next((path for path in shipped if os.path.isfile(path)), None)
    if not os.path.isfile(here):
        return ours
    if ours is not None and not given.startswith(("/", "./", "../")) and not here.samefile(ours) \
            and here.stat().st_uid not in (0, os.geteuid()):
        raise UserError(f"{what}: {given!r} in this directory belongs to another user and has the name of a file of "
                        f"this installation; use ./{given} or {ours}")
    return here
