"""The one place that knows the backends by name."""

from __future__ import annotations

from ..rundir.run import Run
from .base import Backend
from .local import LocalBackend
from .slurm import SlurmBackend

BACKENDS: dict[str, Backend] = {"slurm": SlurmBackend(), "local": LocalBackend()}


def by_name(name: str) -> Backend:
    """The backend of this name, as ``--cluster`` and run.json have it."""
    return BACKENDS[name]


def of(run: Run) -> Backend:
    """The backend that a run was submitted to."""
    return by_name(run.spec.cluster)


def require(name: str) -> None:
    """Refuse to submit to what this machine cannot reach."""
    by_name(name).require("use --cluster local to run here, or submit from a login node", answering=True)
