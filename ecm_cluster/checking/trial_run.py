"""The run that is created for a check alone, and deleted after it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..mmconfig import config
from ..plan import create as creation
from ..plan import planning
from ..rundir.run import Run


def create(plan: planning.Plan, frozen: creation.Frozen, folder: Path) -> Run:
    """A run of the plan in a temporary folder, without the weights that are still to be downloaded."""
    keys = (weight.key for weight in frozen.missing)
    # of `init_cfg.checkpoint` the whole init_cfg is set to None
    absent = {key.rpartition(".")[0] if key.endswith(".checkpoint") else key: None for key in keys}
    plain = replace(frozen, cfg=config.apply_options(frozen.cfg, absent), missing=[]) if absent else frozen
    return creation.create(Run(folder / "run"), replace(plan, job=replace(plan.job, name="run")), plain)
