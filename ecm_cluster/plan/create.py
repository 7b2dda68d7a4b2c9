"""From a plan to a run directory: its parts are frozen first, then written; run.json is written last."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import platform
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base import files, units
from ..base.errors import UserError
from ..base.version import __version__
from ..chain import chain, evaluations
from ..freeze import environment, snapshot, weights
from ..job import sharing
from ..mmconfig import config
from ..rundir import job_env, runs, spec
from ..rundir.run import Run
from . import class_counts, planning


@dataclass(frozen=True)
class Frozen:
    """The parts of a plan that a run keeps, before any of them is written.

    Attributes:
        cfg: The resolved config: class counts as numbers, weights as local paths.
        digests: Of the annotation files, by their name in the record.
        counts: Digest of the class counts, by the loss's type.
        fetched: The pretrained weights.
        missing: Weights that are not downloaded yet.
    """

    cfg: dict[str, Any]
    digests: dict[str, str]
    counts: dict[str, str]
    fetched: list[weights.Fetched]
    missing: list[weights.WeightFile]


def freeze(plan: planning.Plan, fetch: bool = True) -> Frozen:
    """Read everything that a run of this plan keeps, and ``fetch`` the weights that are missing.

    Raises:
        UserError: A part cannot be read or downloaded.
    """
    if plan.job.trainer is not None:
        return Frozen(plan.cfg, {}, {}, [], [])
    digests = planning.annotation_digests(plan)
    counts = class_counts.freeze(plan.cfg)
    missing = [] if fetch else [w for w in plan.weights if not w.present]
    here = [w for w in plan.weights if w not in missing]
    fetched = weights.fetch(here)
    for problem in weights.unreadable(one.weight for one in fetched if one.downloaded):
        raise UserError(problem)
    return Frozen(weights.rewrite(plan.cfg, fetched), digests, counts, fetched, missing)


def next_name(runs_dir: Path, config_path: str) -> str:
    """The config's name and the first free number."""
    return runs.next_name(runs_dir, units.safe_name(Path(config_path).stem))


def claim(runs_dir: Path, config_path: str) -> Run:
    """Create the directory with the next free name, exclusively: others may be submitting at the same time."""
    while True:
        run = Run(runs_dir / next_name(runs_dir, config_path))
        with contextlib.suppress(FileExistsError):
            sharing.make(run.path)
            return run


def require_unused(run: Run) -> None:
    """Refuse a directory that holds something else than leftovers of a submission."""
    own = {p.name for p in (run.submit_lock, run.evaluations_dir, run.logs_dir, run.attempts_dir, run.checkpoints_dir,
                             run.ledger_dir, run.code_folder(1), run.config_file, run.env_file, run.notify_file,
                             run.lock_file, run.environment_file)}
    there = run.path.iterdir() if run.path.is_dir() else [run.path] if run.path.exists() else []
    if any(p.name not in own and files.TMP_MARK not in p.name for p in there):
        raise UserError(f"name: {run.path} exists and is not a run; use another --name or --runs-dir")


def create(run: Run, plan: planning.Plan, frozen: Frozen | None = None, group: dict[str, Any] | None = None) -> Run:
    """Create the run directory; run.json is written last, and only then it is a run.

    Leftovers of an interrupted submission of the same name are overwritten.

    Args:
        group: The record of the group that it belongs to, if it is one of several.

    Returns:
        The new run: if the user gave no name, with the next one that is still free.
    """
    require_unused(run)
    frozen = frozen or freeze(plan)
    text = config.dump(frozen.cfg)
    if plan.job.name is None:
        run = claim(run.path.parent, plan.config_path)
    with contextlib.suppress(FileExistsError):
        sharing.make(run.path)
    sharing.open_to(run.path, plan.job.share)
    try:
        code = snapshot.freeze(run.code_folder(1), snapshot.own_packages(), plan.config_files,
                               Path(plan.job.code) if plan.job.code else None, replace=True)
    except UserError:
        with contextlib.suppress(OSError):
            run.path.rmdir()  # claimed above, and still empty
        raise
    for folder in (run.logs_dir, run.attempts_dir, run.checkpoints_dir, run.ledger_dir):
        folder.mkdir(parents=True, exist_ok=True)
    files.private_file(run.lock_file)
    files.write_text(run.config_file, text)
    files.write_json(run.environment_file, environment.record())
    job_env.write_all(run, plan.job)
    if plan.elements:
        evaluations.write(run, chain.EVALUATE, plan.elements)
    record = spec.RunSpec(
        cluster=plan.where, job=plan.job, name=run.name, run_id=secrets.token_hex(8), submitted=round(time.time(), 3),
        cwd=os.getcwd(), virtual_ranks=plan.job.world_size, threads=plan.job.threads_per_rank,
        checkpoint_every=planning.checkpoint_interval(frozen.cfg, plan.job), config=plan.config_path, batch=plan.batch,
        annotations={split: str(path) for split, path in plan.annotations.items()},
        staging=plan.staging.frozen() if plan.job.trainer is None else None,
        digests={**frozen.digests, "config": files.digest_text(text)}, class_counts=frozen.counts, code=code,
        weights=[_weight_record(w) for w in frozen.fetched], versions=versions(), group=group or {})
    if not files.create_exclusive(run.run_file, json.dumps(record.as_dict(), indent=1) + "\n"):
        raise UserError(f"name: another submission created {run.path} at the same time; use another --name")
    return run


def versions() -> dict[str, str]:
    """Versions of this program, Python, and the installed libraries that affect results."""
    from importlib import metadata

    found = {"ecm-cluster": __version__, "python": platform.python_version()}
    for name in ("submitit", "torch", "torchvision", "mmcv-full", "mmdet", "lvis", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _weight_record(fetched: Any) -> dict[str, Any]:
    return {"key": fetched.weight.key, "source": fetched.weight.source,
            "url": fetched.weight.url and units.without_secrets(fetched.weight.url),
            "path": str(fetched.path), "digest": fetched.digest, "size": fetched.size}


def renew_code(run: Run) -> dict[str, Any]:
    """A new snapshot of the installed code beside the run's own, which later attempts import once it is recorded.

    Returns:
        Its record, see :func:`ecm_cluster.freeze.snapshot.freeze`, with the ``number`` of its directory.
    """
    number = next(n for n in itertools.count(2) if not run.code_folder(n).exists())
    try:
        bases = config.bases(run.spec.config)
    except UserError:
        bases = []  # only for the record, and may be gone: the run's resolved config is what is trained
    own = run.spec.job.code
    return {"number": number, **snapshot.freeze(run.code_folder(number), snapshot.own_packages(), bases,
                                               Path(run.spec.cwd, own) if own else None)}
