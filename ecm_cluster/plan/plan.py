"""What a submission is going to do, as data: filled in by :mod:`ecm_cluster.plan.planning`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..chain import evaluations
from ..freeze import weights
from ..job import job as jobs
from ..slurm import site
from ..staging import planned
from . import operators


@dataclass
class Plan:
    """Everything that submission will do, before it does any of it.

    Attributes:
        cfg: The resolved mmdet config, paths absolute, class counts still a path.
        elements: What will be scored.
        partition: Where the job goes that names none.
        preemption: What may preempt it; empty where Slurm was not asked.
        not_asked: Why Slurm was not asked about the place, in words; empty where it answered, or there is none to ask.
        operators: What mmcv-full of the job's Python was compiled for, where that is on record.
        problems: Why submission would refuse; a dry run shows them, a real one raises the first.
        warnings: What the user should know but may want.
    """

    job: jobs.Job
    where: str
    cfg: dict[str, Any]
    config_path: str
    config_files: list[Path]
    annotations: dict[str, Path]
    images: dict[str, Path]
    weights: list[weights.WeightFile]
    batch: dict[str, Any]
    staging: planned.Staging
    elements: list[evaluations.Element] = field(default_factory=list)
    partition: str | None = None
    preemption: list[site.Preemption] = field(default_factory=list)
    not_asked: str = ""
    operators: operators.Operators | None = None
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
