"""The plan of a submission as data; filled in by :mod:`ecm_cluster.plan.planning`."""

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
    """Everything that a submission will do, before it does any of it.

    Attributes:
        cfg: The resolved mmdet config with absolute paths; class counts are still a path.
        elements: The evaluations.
        trackers: Options of each tracker.
        partition: The partition(s) of the job; the default if it requests none.
        preemption: How the job may be preempted; empty if Slurm was not asked.
        not_asked: Why Slurm was not asked; empty if it answered, or is not used.
        operators: The hardware for which mmcv-full of the job's Python was compiled, if recorded.
        problems: Reasons to refuse the job; a dry run shows all of them, a submission raises the first.
        warnings: For the user's attention; the job may be fine.
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
    trackers: dict[str, dict[str, Any]] = field(default_factory=dict)
    partition: str | None = None
    preemption: list[site.Preemption] = field(default_factory=list)
    not_asked: str = ""
    operators: operators.Operators | None = None
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
