"""Any checkpoint file as a completed run, so that it can be scored like every other one."""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..backends import choose
from ..base import files, folders
from ..base.errors import UserError
from ..base.units import check_run_path, safe_name
from ..chain import requested, submissions
from ..job import job as jobs
from ..job.flags import given_flags
from ..mmconfig import config
from ..pickles import archive
from ..rundir import checkpoints
from ..rundir.run import Run
from . import create, planning

OUTSIDE = 0  # the attempt of a checkpoint that was not trained here; those of runs start at 1


@dataclass(frozen=True)
class Plain:
    """A checkpoint file, and the run that scores it: an existing one, or a new one."""

    path: Path
    digest: str
    plan: planning.Plan
    run: Run
    is_made: bool  # whether the run existed before

    def make(self) -> Run:
        """Create the run, whose checkpoint is a link to the file, with its digest on record."""
        if not self.is_made:
            if not self.run.run_file.exists():
                self.plan.job = jobs.make({**self.plan.job.as_dict(), "name": self.run.name})
                create.create(self.run, self.plan)
            _adopt(self.run, self.path, self.digest)
        return self.run

    def discard(self) -> None:
        """Remove the new run if its job was refused."""
        if not self.is_made and not submissions.recorded_links(self.run):
            shutil.rmtree(self.run.path, ignore_errors=True)


def prepare(path: Path, args: argparse.Namespace, grid: Sequence[dict[str, Any]] = ()) -> Plain:
    """Check everything about a checkpoint file that is to be scored; writes nothing.

    Raises:
        UserError: It does not exist, or the config and the data do not match.
    """
    if not os.path.isfile(path):
        raise UserError(f"RUN: {path} is not a file; expected checkpoint files with --config")
    if not os.access(path, os.R_OK):
        raise UserError(f"RUN: {path} is not readable; check its permissions")
    archive.check_weights(path)
    flags: dict[str, Any] = {k: v for k, v in given_flags(args).items() if v is not None}
    job = jobs.load(None, {**flags, "config": args.config, "options": config.parse_options(args.options)})
    if not args.dry_run:
        choose.require(args.cluster)
    plan = planning.make(job, args.cluster)
    plan.weights = []  # the checkpoint replaces them
    # problems of the training data do not matter for a trained model
    problems = [problem for problem in plan.problems if not problem.startswith(("data.train", "config: data.train"))]
    if problems:
        raise UserError(problems[0])
    runs_dir = folders.absolute(job.runs_dir)
    check_run_path("runs-dir", str(runs_dir))
    digest = files.digest(path)
    key = (digest, config.dump(plan.cfg), *([_digest_of_code(Path(job.code))] if job.code else []))
    text = files.digest_text(repr(key))
    run = Run(runs_dir / f"{safe_name(path.stem)}-{text[7:15]}")
    found = Plain(path, digest, plan, run, run.completion() is not None)
    _check_places(found, args.checkpoints)
    requested.changing(plan.cfg, grid)
    if args.dry_run and not found.is_made:
        raise UserError(f"dry-run: {path} was never scored before; run without --dry-run to create {run.path}")
    return found


def _check_places(found: Plain, asked: str) -> None:
    if not found.is_made and asked not in ("last", "all", "0"):
        raise UserError(f"invalid checkpoints: {asked!r}; expected last or all: {found.path} is a single checkpoint, "
                        "which was never scored before")


def _digest_of_code(folder: Path) -> str:
    """Digest of a directory's Python modules: the same checkpoint with other code is another run."""
    folder = folder.expanduser()
    found = sorted(folder.rglob("*.py"))
    return files.digest_text("\n".join(f"{path.relative_to(folder)} {files.digest(path)}" for path in found))


def _adopt(run: Run, path: Path, digest: str) -> None:
    """Make the file the last checkpoint of a complete run."""
    target = run.checkpoint_file(0, OUTSIDE)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.is_symlink():
        os.symlink(path.absolute(), target)
    manifest = checkpoints.Manifest(target.name, path.stat().st_size, digest, iteration=0, epoch=0, position=0,
                                    attempt=OUTSIDE, epoch_end=True)
    files.write_json(run.manifest_of(target), {**asdict(manifest), "time": round(time.time(), 3)})
    files.write_json(run.complete_file(OUTSIDE), {"attempt": OUTSIDE, "time": round(time.time(), 3),
                                                  "checkpoint": manifest.file})
