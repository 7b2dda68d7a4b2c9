"""The run that is made for a check alone, and thrown away after it."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..base import files
from ..freeze import weights
from ..mmconfig import config
from ..plan import create, planning
from ..rundir.run import Run

LOCK = "lock"


@contextlib.contextmanager
def folder_for_it(parent: Path, prefix: str) -> Iterator[Path]:
    """A folder that is gone afterwards; one of a process that was killed goes with a later call."""
    files.sweep(parent, prefix, LOCK)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        files.write_text(folder / LOCK, "")
        with files.locked(folder / LOCK):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def made_for_it(plan: planning.Plan, frozen: create.Frozen, folder: Path) -> Run:
    """A run of the plan in a folder that is thrown away; without the weights that are still to be fetched."""
    absent = {_without(weight): None for weight in frozen.missing}
    plain = replace(frozen, cfg=config.apply_options(frozen.cfg, absent), missing=[]) if absent else frozen
    return create.create(Run(folder / "run"), replace(plan, job=replace(plan.job, name="run")), plain)


def _without(weight: weights.Weight) -> str:
    """The key that is set to None for a model without these weights."""
    return weight.key.rpartition(".")[0] if weight.key.endswith(".checkpoint") else weight.key
