"""A run on another number of ranks than before: what stays the same, what does not, and when that is refused.

The work is laid out for the ranks of the submission (virtual ranks), and any number that divides theirs can play them:
order, draws, batch and schedule stay, and weights are equal up to the order of summation. Everything else takes
``resume --rescale``, and is on record.
"""

from __future__ import annotations

from typing import Any

from ..base.errors import UserError
from ..chain import chain
from ..job import job as jobs
from ..mmconfig import config
from ..rundir.run import Run
from ..rundir.spec import Overrides
from . import planning, reproducibility


def check(run: Run, begun: jobs.Job, job: jobs.Job, rescale: bool, record: Overrides) -> list[str]:
    """Refuse ranks that cannot carry the run on as it is, unless it is to be rescaled.

    Args:
        begun: The job as it was before.
        job: The job as it shall be.
        record: The run's overrides; what is changed for good is put into it.

    Returns:
        What the user should know, in lines.

    Raises:
        UserError: The run would not stay the same, and nobody has asked for that.
    """
    virtual, world = chain.virtual_ranks(run), job.world_size
    if job.trainer is not None and world != virtual:
        raise UserError(f"nodes, gpus: {run.name} was submitted for {virtual} ranks, and {job.trainer} cannot continue "
                        f"it with {world}; keep {virtual} (nodes × gpus)")
    if virtual % world:
        if not rescale:
            legal = ", ".join(str(w) for w in range(1, virtual + 1) if virtual % w == 0)
            raise UserError(f"nodes, gpus: {run.name} is laid out for {virtual} ranks, which {world} cannot share "
                            f"evenly; give a number of ranks (nodes × gpus) out of {legal}, or --rescale, which "
                            "changes batch and order")
        record.virtual_ranks = world
        return rescaled(config.read_frozen(run.config_file), job, virtual)
    if world == begun.world_size:
        return []
    lines = [] if world == virtual else [f"{world} play the {virtual} that the run is laid out for, with "
                                         f"{virtual // world} batches each in every optimizer step"]
    lost = reproducibility.elastic_problems(config.read_frozen(run.config_file))
    if lost and not rescale:
        raise UserError(f"nodes, gpus: with {world} ranks {run.name} would be another run than with "
                        f"{begun.world_size}: {lost[0]}; keep {begun.world_size}, or give --rescale, which accepts it")
    if lost:
        record.not_kept = lost
    return [*lines, *(f"not kept: {text}" for text in lost)]


def rescaled(cfg: dict[str, Any], job: jobs.Job, former: int) -> list[str]:
    """What becomes of a run whose ranks are from now on ``job``'s instead of ``former``."""
    batch, world = planning.global_batch(cfg, job), job.world_size
    limits = ", ".join(f"{key} {value}" for key, value in cfg["runner"].items() if key != "type")
    fewer = "" if "max_epochs" in cfg["runner"] else f", with {world}/{former} of the samples in each iteration"
    return [f"rescaled from {former} to {world}: batch {batch['global']} = {world} × {batch['per_gpu']} instead of "
            f"{former * batch['per_gpu']}; learning rate {batch['lr']} and {limits} stay{fewer}",
            f"what is left of the epoch in progress is dealt out among the {world}, each sample with the draws that it "
            f"would have had; from the next epoch on the order is that of {world} ranks"]
