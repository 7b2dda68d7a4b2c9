"""From a job to a plan: resolves the config and checks the data and the cluster. Writes nothing."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..backends import choose
from ..base import files
from ..chain import chain, requested, signal_lead, submissions
from ..datacheck import heads, splits
from ..freeze import weights
from ..job import job as jobs
from ..keycheck import check_keys, keys, tracker_hooks
from ..mmclasses import classes
from ..mmconfig import config, settled, shipped
from ..rundir.run import Run
from ..slurm.sbatch import python_of
from ..staging import planned
from . import class_counts, modules, operators, place, trainers, variables
from .plan import Plan


def make(job: jobs.Job, where: str) -> Plan:
    """Resolve a job for ``where`` (``slurm`` or ``local``).

    Raises:
        UserError: The config cannot be read, or requests something that is not supported. Problems of the data are
            collected in ``problems`` instead, so that a dry run can show the rest.
    """
    if job.trainer is not None:
        return _of_another_trainer(job, where)
    path = shipped.find_config(job.config)
    written, cfg = checked_config(path, job)
    cfg = settled.settle(cfg)
    keys.refuse(cfg)
    config.dump(cfg)  # refuses values that cannot be written, in a dry run, too
    root = job.data_root or cfg.get("data_root")
    if root:
        cfg = config.rewrite_data_root(cfg, os.path.abspath(os.path.expanduser(root)))
    plan = Plan(job, where, cfg, path, config.bases(path), data_files(cfg, "ann_file"), data_files(cfg, "img_prefix"),
                weights.find(cfg), global_batch(cfg, job), planned.plan(job, root))
    plan.warnings += variables.warnings(written, plan.config_files)
    plan.problems += weights.unreadable(plan.weights)
    plan.elements = requested.planned(job.evaluation, cfg)
    scale_learning_rate(plan)
    check_data(plan)
    if not plan.problems:  # which are mostly about the same missing file
        plan.problems += class_counts.problems(plan.cfg)
    place.check(plan)
    check_operators(plan)
    refused, doubted = modules.problems(cfg, job)
    plan.problems += refused
    plan.warnings += doubted
    check_trackers(plan)
    if choose.by_name(where).queues:
        plan.warnings += signal_lead.at_submission(job, path, plan.preemption)
    return plan


def _of_another_trainer(job: jobs.Job, where: str) -> Plan:
    """A plan whose config and data are the trainer's own business; raises as :func:`make`."""
    path, sources, cfg = trainers.settings(job)
    # nothing is staged: what data there is, the trainer alone knows
    plan = Plan(job, where, cfg, path, sources, {}, {}, [], {}, planned.plan(replace(job, stage=jobs.NOTHING), None))
    plan.problems, plan.warnings = trainers.problems(job)
    check_trackers(plan)
    place.check(plan)
    if choose.by_name(where).queues:
        plan.warnings += signal_lead.at_submission(job, path, plan.preemption)
    return plan


def checked_config(path: str, job: jobs.Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """A config without and with the job's options.

    Raises:
        UserError: It cannot be read, or contains invalid keys, arguments or values.
    """
    written = config.read(path)
    base = settled.replace_references(written)
    cfg = config.apply_options(base, job.options)
    # another Python may have another mmdet
    check_keys.refuse(base, cfg, job.options, job.code, None if job.python else classes.installed_release())
    return written, cfg


def data_files(cfg: dict[str, Any], key: str) -> dict[str, Path]:
    """The first ``key`` in data.train and data.test, by split, absolute."""
    found = {split: planned.data_paths(cfg, split, key) for split in ("train", "test")}
    return {split: Path(paths[0]) for split, paths in found.items() if paths}


def global_batch(cfg: dict[str, Any], job: jobs.Job) -> dict[str, Any]:
    """Samples per step and per GPU, the learning rate, and the batch that the config was written for."""
    per_gpu = settled.train_loader(cfg["data"])["samples_per_gpu"]
    optimizer = cfg["optimizer"]
    rates = optimizer.get("lr") if "type" in optimizer else None
    scaling = cfg.get("auto_scale_lr") or {}
    return {"per_gpu": per_gpu, "global": per_gpu * job.world_size, "lr": rates,
            "base": scaling.get("base_batch_size"), "scale": bool(scaling.get("enable")), "rule": "as in the config"}


def scale_learning_rate(plan: Plan) -> None:
    """Apply mmdet's linear rule if the config enables it; else warn if the batch differs from the config's."""
    batch = plan.batch
    base, rate = batch["base"], batch["lr"]
    if not base or rate is None or base == batch["global"]:
        return
    scaled = batch["global"] / base * rate  # in the order of mmdet, for bit-equal results
    if batch["scale"]:
        # update the base batch, too: else mmdet, or a run submitted with the frozen config, would scale again
        plan.cfg = config.apply_options(plan.cfg, {"optimizer.lr": scaled,
                                                   "auto_scale_lr.base_batch_size": batch["global"]})
        batch.update(lr=scaled, rule=f"linear: {rate:g} × {batch['global']}/{base}")
    else:
        plan.warnings.append(
            f"the config's learning rate {rate:g} is for a batch of {base}, this run's batch is {batch['global']}; "
            f"--set optimizer.lr={scaled:g} or --set auto_scale_lr.enable=True follows the linear rule")


def check_data(plan: Plan) -> None:
    """Check the data for training and scoring, and that the heads have its number of classes."""
    found = splits.check(plan.cfg, plan.staging, bool(plan.elements))
    plan.problems += found.problems
    plan.warnings += found.warnings
    plan.problems += heads.wrong_class_numbers(plan.cfg, found.labels)


def check_trackers(plan: Plan) -> None:
    """Find out which trackers the run feeds, and whether their packages are installed.

    Raises:
        UserError: The config sets an invalid option of a tracker.
    """
    plan.trackers = tracker_hooks.asked(plan.job, plan.cfg)
    refused, doubted = modules.without_tracker(plan.trackers, plan.job)
    plan.problems += refused
    plan.warnings += doubted
    plan.warnings += [f"config: {key}: {tracker_hooks.kind_of(hook)} starts a record of its own at each attempt of the "
                      "run; TensorBoard and W&B get one for all attempts (trackers)"
                      for key, hook in tracker_hooks.hooks(plan.cfg, tracker_hooks.SINGLE)]


def check_with_slurm(plan: Plan, run: Run) -> None:
    """Ask sbatch whether it would accept every job of the chain, so that either all of them are submitted or none.

    Raises:
        UserError: It would not, with sbatch's message.
    """
    asked = [chain.request(run, plan.job, link, submissions.new_token(run.name, link),
                           elements=1 if link == chain.TRAIN else len(plan.elements))
             for link in chain.links(plan.job)]
    choose.by_name(plan.where).check(asked, "fix the job file or the flags")


def check_operators(plan: Plan) -> None:
    """Look up the hardware that mmcv-full was compiled for; warn if a job on GPUs has CPU operators."""
    python = python_of(plan.job)
    plan.operators = operators.of_interpreter(python)
    if plan.operators and plan.operators.cuda is None and plan.job.device == "cuda":
        plan.warnings.append(f"the job requests GPUs, but mmcv-full of {python} has operators for the CPU only: "
                             f"{plan.operators.remedy()}")


def annotation_digests(plan: Plan) -> dict[str, str]:
    """Digests of the annotation files, for the record and for staging, which names columns by them.

    Raises:
        UserError: The data root is a pack that was made from other annotation files.
    """
    known = plan.staging.annotations
    for split in ("train", "test"):
        known.update({path: files.digest(path) for path in planned.annotation_files(plan.cfg, split)
                      if path not in known and os.path.isfile(path)})
    planned.check_annotations(plan.staging, known)
    found = {}
    for split, name in (("train", "train_annotations"), ("test", "val_annotations")):
        digest = planned.digest_of_all([known[path] for path in planned.annotation_files(plan.cfg, split)
                                        if path in known])
        found.update({name: digest} if digest else {})
    return found


def checkpoint_interval(cfg: dict[str, Any], job: jobs.Job) -> int:
    """Iterations between checkpoints: the job's, else the config's if it counts iterations, else 0."""
    if job.trainer is not None:
        return job.checkpoint_every
    stock = cfg.get("checkpoint_config") or {}
    by_epoch = stock.get("by_epoch", cfg["runner"]["type"] == "EpochBasedRunner")
    return job.checkpoint_every or (0 if by_epoch else int(stock.get("interval", 0)))
