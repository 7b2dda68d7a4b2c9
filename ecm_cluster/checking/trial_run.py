"""The run that is created for a check alone, and deleted after it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..freeze import weights
from ..mmconfig import config
from ..plan import create as creation
from ..plan import planning
from ..rundir.run import Run


def create(plan: planning.Plan, frozen: creation.Frozen, folder: Path) -> Run:
    """A run of the plan in a temporary folder, without the weights that are still to be downloaded."""
    absent = {_without(weight): None for weight in frozen.missing}
    plain = replace(frozen, cfg=config.apply_options(frozen.cfg, absent), missing=[]) if absent else frozen
    return creation.create(Run(folder / "run"), replace(plan, job=replace(plan.job, name="run")), plain)


def _without(weight: weights.WeightFile) -> str:
    """The key that is set to None for a model without these weights."""
    return weight.key.rpartition(".")[0] if weight.key.endswith(".checkpoint") else weight.key
