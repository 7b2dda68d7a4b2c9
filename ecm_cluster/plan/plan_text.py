"""A plan as text: one line for each question before a submission."""

from __future__ import annotations

import os

from ..backends import choose
from ..base.units import without_secrets
from ..console import shell
from ..freeze import weights
from ..job.job import OPTIONS
from ..job.notify_options import Notify, scheme
from ..keycheck import keys, tracker_hooks
from ..rundir import retention
from ..staging import planned
from . import planning, reproducibility


def describe(plan: planning.Plan) -> str:
    job = plan.job
    used = shell.used(os.environ, job) if choose.by_name(plan.where).queues else []
    unit = "GPU" if job.device == "cuda" else "CPU rank"
    what, how = _another_trainer(plan) if job.trainer is not None else _mmdet(plan)
    lines = [
        ("config", plan.config_path),
        ("train", f"{job.nodes} node(s) × {job.gpus} {unit}(s), {job.cpus_per_gpu} CPUs"
                  f"{f' and {job.mem_per_gpu}' if job.memory_mib else ''} each, "
                  f"{job.threads_per_rank} thread(s) a rank"),
        ("where", describe_place(plan)),
        *([("options", asked)] if (asked := describe_sbatch(plan)) else []),
        *([("from shell", ", ".join(used))] if used else []),
        *what,
        ("checkpoints", describe_checkpoints(plan)),
        *([("trackers", describe_trackers(plan))] if plan.trackers else []),
        *how,
        *([("notify", describe_notify(plan))] if job.notify.get("urls") else [])]
    return "\n".join(f"  {name:<12}{text}" for name, text in lines)


def _mmdet(plan: planning.Plan) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """What mmdet's trainer will train on, before the line on checkpoints, and how, after it."""
    job, batch = plan.job, plan.batch
    unused: dict[str, list[str]] = {}
    for key, reason in keys.unused(plan.cfg).items():
        unused.setdefault(reason, []).append(key)
    return [
        ("batch", f"{batch['global']} = {job.world_size} × {batch['per_gpu']}; learning rate {batch['lr']} "
                  f"({batch['rule']})"),
        ("schedule", ", ".join(f"{k} {v}" for k, v in plan.cfg["runner"].items() if k != "type")
         + f"; seed {job.seed}"),
        ("data", ", ".join(path for split in ("train", "test") for path in planned.annotation_files(plan.cfg, split))
         or "as in the config"),
        ("staging", describe_staging(plan)),
        ("weights", "; ".join(describe_weight(w) for w in plan.weights) or "none: from scratch")], [
        *([("mmcv-full", plan.operators.describe())] if plan.operators else []),
        ("exact", reproducibility.describe(plan.cfg, job.device)),
        ("evaluation", describe_evaluation(plan)),
        *[("not used", f"{', '.join(names)}: {reason}") for reason, names in unused.items()]]


def _another_trainer(plan: planning.Plan) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The same for a trainer that the job names."""
    name = str(plan.job.trainer)
    return [("trainer", f"{name}; seed {plan.job.seed}")], [
        ("exact", f"not checked: as far as the state() of {name} holds everything"),
        ("evaluation", f"none: {name} offers none, and only mmdet's checkpoints can be scored")]


def describe_place(plan: planning.Plan) -> str:
    """Partition, time limit, and what happens on preemption and at the limit."""
    job = plan.job
    if not choose.by_name(plan.where).queues:
        return "this machine; a signal to a rank commits and continues, SIGTERM to the driver commits and ends"
    if plan.not_asked:
        name = f"partition {job.partition}" if job.partition else "the cluster's default partition"
        return (f"{name}, time limit {job.time}; not asked ({plan.not_asked}): whether such a job is accepted there, "
                "what may preempt it and with how much grace; when out of time: commit, requeue, continue")
    name = job.partition or (f"{plan.partition} (the default)" if plan.partition else "not given, and no default")
    modes = list(dict.fromkeys(one.describe() for one in plan.preemption))
    return "; ".join([f"partition {name}, time limit {job.time}", *modes,
                      "when out of time: commit, requeue, continue"])


def describe_sbatch(plan: planning.Plan) -> str:
    """The job's options that go to sbatch as they are, besides the partition."""
    if not choose.by_name(plan.where).queues:
        return ""
    given = {name: getattr(plan.job, name) for name, one in OPTIONS.items() if isinstance(one.slurm, str)}
    return ", ".join(f"{name} {value}" for name, value in given.items() if value and name != "partition")


def describe_staging(plan: planning.Plan) -> str:
    """What each node copies for the training, where to, and what happens if there is no space."""
    train = [str(plan.annotations["train"])] if "train" in plan.annotations else []
    return planned.describe(plan.staging, train, os.environ if not choose.by_name(plan.where).queues else None)


def describe_trackers(plan: planning.Plan) -> str:
    """The trackers with their options, and the hooks of mmcv in whose place they are fed."""
    found = [name + (f" ({', '.join(f'{key} {value}' for key, value in options.items())})" if options else "")
             for name, options in plan.trackers.items()]
    replaced = [f"{key}: {tracker_hooks.kind_of(hook)}" for key, hook in tracker_hooks.hooks(plan.cfg)] \
        if plan.job.trainer is None else []
    return ", ".join(found) + (f"; in place of {', '.join(replaced)}" if replaced else "")


def describe_weight(weight: weights.WeightFile) -> str:
    if weight.url is None:
        return str(weight.path)
    where = f"in {weight.path}" if weight.present else f"to fetch: {without_secrets(weight.url)}"
    return f"{weight.source} ({where})"


def describe_checkpoints(plan: planning.Plan) -> str:
    """When checkpoints are written, and which are kept."""
    job, interval = plan.job, planning.checkpoint_interval(plan.cfg, plan.job)
    every = [f"every {interval} iterations"] if interval else []
    if job.checkpoint_minutes:
        every.append(f"every {job.checkpoint_minutes:g} minutes")
    epochs = job.trainer is not None or plan.cfg["runner"]["type"] == "EpochBasedRunner"
    end = "at the end of each epoch" if epochs else "at the end"
    kept = f"the last {max(job.keep, retention.FEWEST)}" + (" and epochs' ends stay" if epochs else " stay")
    return f"{', '.join([*every, end, 'after a signal'])}; {kept}"


def describe_notify(plan: planning.Plan) -> str:
    """Which messages are sent, without the URLs."""
    asked = Notify.of(plan.job.notify)
    local = not choose.by_name(plan.where).queues
    services = ", ".join(map(scheme, asked.urls))
    return f"{len(asked.urls)} URL(s) ({services}): {', '.join(asked.events)}; sent by " \
        + ("a process at its end, and " if local else "a short job behind it, and " if asked.by_job else "") \
        + "your next command"


def describe_evaluation(plan: planning.Plan) -> str:
    """Which checkpoints are scored, when, how and where."""
    if not plan.elements:
        return "none"
    block, count = plan.job.evaluation, len(plan.elements)
    places = list(dict.fromkeys(element.at for element in plan.elements))
    named = ", ".join(places if len(places) < 5 else [*places[:2], "…", *places[-2:]])
    what = "the last checkpoint" if len(places) == 1 else f"{len(places)} checkpoints ({named})"
    if count > len(places):
        what += f" × {count // len(places)} settings"
    early = block.while_training and choose.by_name(plan.where).queues
    when = "as they are committed" if early else "after the training is complete"
    several = f", {min(block.at_once, count)} at once" if count > 1 and choose.by_name(plan.where).queues else ""
    return f"{what}, {when}, on {block.nodes or 1} node(s) × {block.gpus or plan.job.gpus}{several}"
