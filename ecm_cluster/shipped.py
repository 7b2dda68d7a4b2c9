"""Configs and job files that come with this program, and those that a user means by a path or by a name."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

from .errors import UserError, one_of


def resource_dir(kind: str) -> Path:
    """The folder ``configs`` or ``jobs`` of this installation: beside the package, or under sys.prefix."""
    beside = Path(__file__).resolve().parent.parent / kind
    return beside if beside.is_dir() else Path(sys.prefix) / "share" / "ecm-cluster" / kind


def find_job_file(given: str) -> Path:
    """A job file by path, or by its name in ``jobs/`` with or without ``.yaml``."""
    found = find_in_jobs(given)
    if found is None or found.suffix == ".py":
        config = find_config(given if given.endswith(".py") else f"{given}.py")
        if given.startswith("mmdet::") or os.path.isfile(config):
            raise UserError(f"JOB: {given!r} is an mmdet config; give it as --config {shlex.quote(given)}")
        raise one_of("JOB", given, job_names(), "expected the path of a job file (YAML), or one of: ",
                     "; an mmdet config is given with --config")
    return found.resolve()


def job_names() -> list[str]:
    """Names of the job files that come with this program."""
    return sorted(p.stem for p in resource_dir("jobs").glob("*.yaml")
                  if re.search(r"^config:", p.read_text(), re.MULTILINE))


def find_in_jobs(given: str) -> Path | None:
    """A file by path, or by its name in ``jobs/`` with or without ``.yaml``; None where there is none."""
    shipped = resource_dir("jobs")
    candidates = (Path(given), shipped / given, shipped / f"{given}.yaml", shipped.parent / given)
    return next((path for path in candidates if path.is_file()), None)


def find_config(given: str) -> str:
    """A config by path (relative to here, or to this installation), or ``mmdet::…`` unchanged."""
    if given.startswith("mmdet::"):
        return given
    configs = resource_dir("configs")
    for candidate in (Path(given), configs.parent / given, configs / given):
        if candidate.is_file():
            return str(candidate.resolve())
    return given  # the config reader says what is wrong, with near matches
