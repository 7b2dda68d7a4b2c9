"""Resuming a run on another number of ranks: what stays the same, what changes, and when that is refused.

The work is divided among the ranks of the submission (virtual ranks), which can be assigned to any number of processes
that divides theirs: order, random draws, batch and schedule stay the same, and weights are equal up to the order of
summation. Any other change needs ``resume --rescale`` and is recorded.
"""

from __future__ import annotations

from typing import Any

from ..base.errors import UserError
from ..chain import chain
from ..job import job as jobs
from ..mmconfig import config
from ..rundir import checkpoints
from ..rundir.run import Run
from ..rundir.spec import Overrides, ResumePoint
from . import planning, reproducibility


def check(run: Run, begun: jobs.Job, job: jobs.Job, rescale: bool, record: Overrides) -> list[str]:
    """Refuse a number of ranks that would change the run, unless --rescale is given; lines for the user.

    Args:
        record: The run's overrides, to which permanent changes are added.

    Raises:
        UserError: The run would change, but --rescale is not given.
    """
    virtual, world = chain.virtual_ranks(run), job.world_size
    if job.trainer is not None and world != virtual:
        raise UserError(f"nodes, gpus: {run.name} was submitted for {virtual} ranks, and {job.trainer} cannot continue "
                        f"it with {world}; keep {virtual} (nodes × gpus)")
    if virtual % world:
        if not rescale:
            valid = ", ".join(str(w) for w in range(1, virtual + 1) if virtual % w == 0)
            raise UserError(f"invalid nodes, gpus: the {virtual} ranks of {run.name} cannot be divided evenly among "
                            f"{world}; expected a number of ranks (nodes × gpus) out of {valid}, or --rescale, which "
                            "changes batch and order")
        record.virtual_ranks = world
        return rescaled(config.read_frozen(run.config_file), job, virtual)
    if world == begun.world_size:
        return []
    lines = [] if world == virtual else [f"the run's {virtual} virtual ranks are assigned to {world} processes, with "
                                         f"{virtual // world} batches each in every optimizer step"]
    lost = reproducibility.elastic_problems(config.read_frozen(run.config_file))
    if lost and not rescale:
        raise UserError(f"invalid nodes, gpus: results of {run.name} with {world} ranks would differ from those with "
                        f"{begun.world_size}: {lost[0]}; keep {begun.world_size}, or give --rescale to accept that")
    if lost:
        record.not_kept = lost
    return [*lines, *(f"changed: {text}" for text in lost)]


def rescaled(cfg: dict[str, Any], job: jobs.Job, before: int) -> list[str]:
    """Lines about a run that has ``before`` ranks and will have those of ``job``."""
    batch, world = planning.global_batch(cfg, job), job.world_size
    limits = ", ".join(f"{key} {value}" for key, value in cfg["runner"].items() if key != "type")
    fewer = "" if "max_epochs" in cfg["runner"] else f", with {world}/{before} of the samples in each iteration"
    return [f"rescaled from {before} to {world} ranks: batch {batch['global']} = {world} × {batch['per_gpu']} instead "
            f"of {before * batch['per_gpu']}; learning rate {batch['lr']} and {limits} stay the same{fewer}",
            f"the rest of the current epoch is divided among the {world}, each sample with the same random draws; from "
            f"the next epoch on, the order is that of {world} ranks"]


def start(run: Run, point: ResumePoint | None) -> str:
    """Where the training resumes, in words.

    Raises:
        UserError: There is no such checkpoint.
    """
    there = checkpoints.accepted(run)
    if point is not None:
        there = [m for m in there if m.iteration <= point.iteration]
        if not there or there[-1].iteration != point.iteration:
            known = sorted({m.iteration for m in checkpoints.accepted(run)})
            raise UserError(f"from: {run.name} has no checkpoint of iteration {point.iteration}; it has "
                            f"{', '.join(map(str, known)) or 'none'}")
    if not there:
        return "from the beginning: there is no checkpoint yet"
    return f"from {there[-1].file}: iteration {there[-1].iteration}, epoch {there[-1].epoch}"
