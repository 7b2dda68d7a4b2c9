"""The one place that knows the backends by name."""

from __future__ import annotations

from ..rundir.run import Run
from .base import Backend
from .local import Local
from .slurm import Slurm

BACKENDS: dict[str, Backend] = {"slurm": Slurm(), "local": Local()}


def named(name: str) -> Backend:
    """The backend of this name, as ``--cluster`` and run.json have it."""
    return BACKENDS[name]


def of(run: Run) -> Backend:
    """The backend that a run was submitted to."""
    return named(run.spec.cluster)


def require(name: str) -> None:
    """Refuse to submit to what this machine cannot reach."""
    named(name).require("give --cluster local to run here, or submit from a login node", answering=True)
