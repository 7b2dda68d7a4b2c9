"""The subject of a diagnosis: a job, as far as it can be read, and the directories that it uses."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base import folders
from ..base.errors import UserError
from ..base.units import without_secrets
from ..chain import evaluations, requested, signal_lead
from ..freeze import weight_cache, weights
from ..job import job as jobs
from ..mmconfig import config, shipped
from ..pack import columns
from ..plan import planning, trainers
from ..staging import planned
from .finding import Finding, fails, not_asked, ok


@dataclass
class Asked:
    """The job that the site should be able to run.

    Attributes:
        where: ``slurm`` or ``local``.
        given: Whether the user named a job or a config; else it is the default job, whose data need not exist.
        cfg: The resolved config; None if it cannot be read, see ``trouble``.
    """

    job: jobs.Job
    where: str
    given: bool
    config_path: str = ""
    cfg: dict[str, Any] | None = None
    trouble: str = ""
    elements: list[evaluations.Element] = field(default_factory=list)

    @property
    def runs_dir(self) -> Path:
        return folders.absolute(self.job.runs_dir)

    @property
    def data_root(self) -> Path | None:
        root = self.job.data_root or (self.cfg or {}).get("data_root")
        return Path(os.path.abspath(os.path.expanduser(root))) if root else None

    def folders(self) -> dict[str, Path]:
        """Directories that a run writes to and that login node and compute nodes must share, by purpose."""
        return {"runs": self.runs_dir, "weights": weight_cache.cache_folder(), "annotations": columns.cache_folder()}

    def data_files(self) -> list[Path]:
        """Annotation files of training and test."""
        splits = ("train", "test") if self.cfg else ()
        return [Path(path) for split in splits for path in planned.annotation_files(self.cfg or {}, split)]

    @functools.cached_property
    def cost(self) -> signal_lead.Cost:
        """The cost of stopping such a run: measured in a run of the same config, or assumed."""
        return signal_lead.expected(self.runs_dir, self.config_path, self.job.as_dict())


def read(job: jobs.Job, where: str, given: bool) -> Asked:
    """Resolve a job as far as possible; an error of the config becomes a finding."""
    asked = Asked(job, where, given)
    try:
        if job.trainer is not None:
            asked.config_path, asked.cfg = trainers.settings(job)[0], {}
            return asked
        asked.config_path = shipped.find_config(job.config)
        _, cfg = planning.checked_config(asked.config_path, job)
        root = job.data_root or cfg.get("data_root")
        asked.cfg = config.rewrite_data_root(cfg, os.path.abspath(os.path.expanduser(root))) if root else cfg
        asked.elements = requested.planned(job.evaluation, asked.cfg)
    except (UserError, OSError, KeyError) as error:
        asked.trouble = str(error)
    return asked


def only_read(asked: Asked) -> list[str]:
    """Directories that the job does not write to: the weight cache if all weights are already in it."""
    wanted = weights.find(asked.cfg) if asked.cfg else []
    return ["weights"] if wanted and all(weight.present for weight in wanted) else []


def check(asked: Asked) -> Iterator[Finding]:
    """The job's config, its data and its pretrained weights."""
    if asked.trouble:
        yield fails("job.config", f"{asked.job.config}: {asked.trouble}", "fix the config or the job file")
        return
    yield ok("job.config", f"{asked.config_path} is valid")
    yield _data(asked)
    assert asked.cfg is not None
    for weight in weights.find(asked.cfg):
        name = f"job.weights.{weight.key}"
        if weight.present:
            yield ok(name, f"{weight.path} exists")
        elif weight.url:
            yield not_asked(name, f"{weight.path} does not exist; submission downloads it from "
                            f"{without_secrets(weight.url)}")
        else:
            yield fails(name, f"{weight.path} does not exist", "fix the path in the config")


def _data(asked: Asked) -> Finding:
    paths = asked.data_files()
    missing = [path for path in paths if not os.path.exists(path)]
    if not paths:
        return not_asked("job.data", "the config has no annotation file")
    if not missing:
        return ok("job.data", f"the annotation files below {asked.data_root or 'the config’s directories'} exist")
    if asked.given or asked.job.data_root:
        return fails("job.data", f"{', '.join(map(str, missing))}: does not exist", "give --data-root")
    return not_asked("job.data", "no job and no --data-root given")
