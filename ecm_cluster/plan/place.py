"""Checks that the cluster or machine can run a job, before sbatch is asked."""

from __future__ import annotations

import os

from ..backends import choose
from ..base.errors import UserError, one_of
from ..console import shell
from ..slurm import site
from ..staging import planned
from .plan import Plan


def check(plan: Plan) -> None:
    """Add the partition, how the job may be preempted, problems and warnings to a plan.

    Raises:
        UserError: The job cannot run there.
    """
    job = plan.job
    if job.memory_mib is not None:
        size = planned.size_of(plan.staging, [str(plan.annotations[s]) for s in ("train",) if s in plan.annotations])
        plan.problems += filter(None, [planned.check_memory(plan.staging, size, job.memory_mib * job.gpus << 20)])
    if choose.by_name(plan.where).queues:
        silence = site.silence()
        plan.not_asked = f"Slurm is not reachable: {silence}" if silence else ""
        if not silence:
            _ask_slurm(plan)
        return
    if job.device == "cuda" and job.nodes > 1:
        raise UserError(f"invalid nodes: {job.nodes}; expected 1 with --cluster local and --device cuda. Give --nodes "
                        "1, or --device cpu, which runs the ranks of all nodes on this machine")
    if job.evaluation.while_training:
        plan.warnings.append("evaluation.while_training is ignored with --cluster local: checkpoints are scored when "
                             "the training is complete")
    if job.gpu_type or job.partition:
        plan.warnings.append("partition and gpu_type are ignored with --cluster local")


def _ask_slurm(plan: Plan) -> None:
    job = plan.job
    shell.check_cluster(os.environ, site.configuration().get("ClusterName"))
    plan.warnings += shell.ignored(os.environ, job)
    if len(plan.elements) > site.max_array_size():
        plan.problems.append(f"evaluation: {len(plan.elements)} evaluations exceed this cluster's MaxArraySize of "
                             f"{site.max_array_size()}; request fewer, and score the rest with `evaluate`, which "
                             "submits several arrays")
    known = site.partitions()
    if not known:
        plan.not_asked = "scontrol lists no partitions"
        return
    names = job.partition.split(",") if job.partition else [p.name for p in known if p.default]
    if not names:
        plan.problems.append("partition: none is given, and this cluster has no default; use --partition, one of: "
                             + ", ".join(p.name for p in known))
    for name in names:
        if name not in {p.name for p in known}:
            raise one_of("partition", name, [p.name for p in known])
    plan.partition = ",".join(names)
    plan.preemption = site.preemption(job, [p for name in names for p in known if p.name == name])
