"""What the user has set for sbatch in his shell: which of it is taken over into the job, and which is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base.errors import UserError

# who is charged, and where jobs go: the job's own keys
FIELDS = {"SBATCH_ACCOUNT": "account", "SBATCH_PARTITION": "partition", "SBATCH_QOS": "qos",
          "SBATCH_RESERVATION": "reservation", "SBATCH_CONSTRAINT": "constraint", "SBATCH_EXCLUDE": "exclude",
          "SBATCH_TIMELIMIT": "time"}
WCKEY = "SBATCH_WCKEY"
CLUSTERS = ("SBATCH_CLUSTERS", "SLURM_CLUSTERS")
INSIDE = "SLURM_JOB_ID"


def defaults(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """For each key of the job that the shell sets: the variable, and its value. None inside a job."""
    if environ.get(INSIDE):
        return {}
    return {field: (name, environ[name]) for name, field in {**FIELDS, WCKEY: "wckey"}.items() if environ.get(name)}


def used(environ: Mapping[str, str], job: Any) -> list[str]:
    """What a job has from the shell, in words."""
    return [f"{field} {value} ({name})" for field, (name, value) in defaults(environ).items()
            if _in(job, field) == value]


def ignored(environ: Mapping[str, str], job: Any) -> list[str]:
    """What sbatch would have taken from the shell and a job does not, and why, a line for each reason."""
    there = sorted(name for name in environ if name.startswith("SBATCH_") and environ[name] and name not in CLUSTERS)
    if not there:
        return []
    if environ.get(INSIDE):
        return [f"ignored: {', '.join(there)}, because this shell is inside job {environ[INSIDE]}, which may have set "
                "them; give flags or a job file"]
    lines = [f"ignored: {name}={value}, because {field} is {_in(job, field) or 'not set'}"
             for field, (name, value) in defaults(environ).items() if _in(job, field) != value]
    others = [name for name in there if name not in (*FIELDS, WCKEY)]
    if others:
        lines.append(f"ignored: {', '.join(others)}, because a job is made of flags and job file alone; put sbatch "
                     "options into slurm: there")
    return lines


def _in(job: Any, field: str) -> Any:
    return job.slurm.get(field) if field == "wckey" else getattr(job, field)


def check_cluster(environ: Mapping[str, str], here: str | None) -> None:
    """Refuse a shell that sends jobs to another cluster: a run's job ids are those of one.

    Args:
        here: The name of the cluster that Slurm's commands talk to; None: not known.

    Raises:
        UserError: It does.
    """
    for name in CLUSTERS:
        if environ.get(name) and environ[name] != here:
            raise UserError(f"{name}: {environ[name]!r} is another cluster than this one ({here or 'unknown'}), and a "
                            "run belongs to one cluster; unset it, or submit from a login node of that cluster")
