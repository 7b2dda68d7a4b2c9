"""The user's SBATCH_* environment variables: which ones the job uses, and which it ignores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base.errors import UserError

# account and placement, which have their own keys in a job
FIELDS = {"SBATCH_ACCOUNT": "account", "SBATCH_PARTITION": "partition", "SBATCH_QOS": "qos",
          "SBATCH_RESERVATION": "reservation", "SBATCH_CONSTRAINT": "constraint", "SBATCH_EXCLUDE": "exclude",
          "SBATCH_TIMELIMIT": "time"}
WCKEY = "SBATCH_WCKEY"
CLUSTERS = ("SBATCH_CLUSTERS", "SLURM_CLUSTERS")
INSIDE = "SLURM_JOB_ID"


def defaults(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """For each key of the job that the environment sets: the variable and its value. Empty inside a job."""
    if environ.get(INSIDE):
        return {}
    return {field: (name, environ[name]) for name, field in {**FIELDS, WCKEY: "wckey"}.items() if environ.get(name)}


def used(environ: Mapping[str, str], job: Any) -> list[str]:
    """What a job takes from the environment, in words."""
    return [f"{field} {value} ({name})" for field, (name, value) in defaults(environ).items()
            if _in(job, field) == value]


def ignored(environ: Mapping[str, str], job: Any) -> list[str]:
    """What sbatch would use from the environment and the job does not, one line per reason."""
    given = sorted(name for name in environ if name.startswith("SBATCH_") and environ[name] and name not in CLUSTERS)
    if not given:
        return []
    if environ.get(INSIDE):
        return [f"ignored: {', '.join(given)}, because this shell is inside job {environ[INSIDE]}, which may have set "
                "them; use flags or a job file"]
    lines = [f"ignored: {name}={value}, because {field} is {_in(job, field) or 'not set'}"
             for field, (name, value) in defaults(environ).items() if _in(job, field) != value]
    others = [name for name in given if name not in (*FIELDS, WCKEY)]
    if others:
        lines.append(f"ignored: {', '.join(others)}, because a job is defined by flags and job file only; put "
                     "sbatch options under slurm: there")
    return lines


def _in(job: Any, field: str) -> Any:
    return job.slurm.get(field) if field == "wckey" else getattr(job, field)


def check_cluster(environ: Mapping[str, str], here: str | None) -> None:
    """Refuse an environment that sends jobs to another cluster, as the job IDs of a run belong to one cluster.

    Args:
        here: The cluster that Slurm's commands talk to; None if it is unknown.

    Raises:
        UserError: It does.
    """
    for name in CLUSTERS:
        if environ.get(name) and environ[name] != here:
            raise UserError(f"{name}: {environ[name]!r} is not this cluster ({here or 'unknown'}), and a run belongs "
                            "to one cluster; unset it, or submit from a login node of that cluster")
