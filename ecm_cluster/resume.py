"""Resume a run that has ended, was cancelled, or crashed: in a new job, from its newest checkpoint."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from . import sweeps
from .backends import choose, liveness
from .base import files
from .base.errors import UserError
from .chain import chain, evaluations, locks, submissions
from .clean import left_by
from .console import cli
from .freeze import snapshot as snapshots
from .job import job as jobs
from .job.flags import add_flags, add_runs_dir, given_flags, in_groups, runs_dir_of, without_removed
from .notices import at_end, entries
from .plan import elastic
from .reporting import state as states
from .rundir import runs
from .rundir.run import Run
from .rundir.spec import Overrides, ResumePoint
from .slurm import commands, launcher
from .submit import say_submitted
from .sweeps import resuming

EPILOG = """examples:
  python -m ecm_cluster.resume first --nodes 2 --gpus 4 --partition preempt
  python -m ecm_cluster.resume first --from 30000
"""
CHANGEABLE = in_groups(jobs.RESOURCES, jobs.STAGING)


def parser() -> argparse.ArgumentParser:
    made = cli.Parser(prog="python -m ecm_cluster.resume", description=__doc__, epilog=EPILOG)
    made.add_argument("run", metavar="RUN", help="a run directory, or the name of a run or of a group")
    add_runs_dir(made)
    made.add_argument("--from", dest="iteration", type=int, metavar="ITER",
                      help="resume from the checkpoint of this iteration; later ones are ignored")
    made.add_argument("--rescale", action="store_true",
                      help="allow a number of ranks with which the run cannot stay identical: batch and order change, "
                           "which is recorded")
    made.add_argument("--code", choices=("current",),
                      help="use the code that is installed here; the run's previous code is kept beside it")
    add_flags(made, CHANGEABLE)
    made.add_argument("--wait", action="store_true", help="follow the run until it has ended")
    made.add_argument("--dry-run", action="store_true", help="print what would be submitted, write nothing")
    return made


@dataclass
class ResumePlan:
    """What a resume will do.

    Attributes:
        links: The steps that get a new job; empty: nothing is left to do.
        job: With the resources that it will have.
        overrides: What will be recorded.
        dropped: Jobs of Slurm that still wait for a step that has failed.
    """

    links: list[str]
    job: jobs.Job
    overrides: Overrides
    lines: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    runs_dir = runs_dir_of(args.runs_dir)
    entries.look(runs_dir)
    group = sweeps.find(args.run, runs_dir)
    if group is not None:
        return resuming.resume(group, resume_one, args)
    run = runs.find(args.run, runs_dir)
    if resume_one(run, args) and args.wait and not args.dry_run:
        from .watching import follow

        return follow.follow(run)
    return cli.EXIT_OK


def resume_one(run: Run, args: argparse.Namespace) -> bool:
    """Resume one run, or show what would be submitted; False where nothing is left to do.

    Raises:
        UserError: It cannot be resumed.
    """
    run.require_own("resume")
    backend = choose.of(run)
    backend.require("resume from a login node")
    submissions.require_owner(run, chain.resume_line(run))
    with contextlib.nullcontext() if args.dry_run else locks.run_lock(run):
        plan = make_plan(run, args)
        print(f"run {run.path}")
        if not plan.links:
            print(f"nothing to do: {states.fold([run])[0].reason}")
            return False
        cli.say("\n".join(f"  {line}" for line in plan.lines))
        backend.check(requests(run, plan), "give other flags", os.environ)  # before anything is changed
        if args.dry_run:
            dry_run(run, plan)
        else:
            cli.acts()
            carry_out(run, plan, args)
    return True


def make_plan(run: Run, args: argparse.Namespace) -> ResumePlan:
    """Inspect the run and its jobs; only records the IDs of jobs that are found again.

    Raises:
        UserError: An attempt is alive, or the request cannot be fulfilled.
    """
    changes = without_removed({name: value for name, value in given_flags(args).items() if name in CHANGEABLE})
    backend = choose.of(run)
    live = backend.alive(run)
    if live is None:
        raise UserError(f"cluster: Slurm does not answer, so it is unknown whether {run.name} is alive"
                        f"{liveness.last_sign(run)}; resume it when Slurm does")
    link_of = {job.job_id: job.link for job in submissions.of_run(run)}
    training = [job_id for job_id in live if link_of.get(job_id, chain.TRAIN) == chain.TRAIN]
    behind = [job_id for job_id in live if link_of.get(job_id) == chain.EVALUATE]
    begun = run.job()
    wanted = chain.links(begun)
    asked = bool(changes or args.rescale or args.code or args.iteration is not None)
    remedy = f"cancel it first by `python -m ecm_cluster.cancel {shlex.quote(str(run.path))}`, or let it finish"
    if run.completion() is not None:
        scored = chain.EVALUATE not in wanted or evaluations.chain_done(run, chain.EVALUATE)
        if scored:
            return ResumePlan([], begun, run.overrides())
        if live:
            raise UserError(f"RUN: {run.name} is being evaluated ({', '.join(live.values())}); {remedy}")
        links = [chain.EVALUATE]
        if args.iteration is not None or args.rescale:
            raise UserError(f"RUN: the training of {run.name} is complete; only its evaluation is left, so leave out "
                            "--from and --rescale")
    elif training:
        lost = chain.EVALUATE in backend.records(wanted) and not behind
        if not lost or asked:
            raise UserError(f"RUN: {run.name} is alive ({', '.join(live.values())}); {remedy}")
        links = [chain.EVALUATE]
    else:
        links = wanted
    return _detail(run, args, changes, links, behind)


def _detail(run: Run, args: argparse.Namespace, changes: dict[str, Any], links: list[str],
            dropped: list[str]) -> ResumePlan:
    begun = run.job()
    record = run.overrides()
    if changes:
        record.job = {**record.job, **changes}
    job = jobs.make({**begun.as_dict(), **changes})
    choose.of(run).check_changes(run, changes, job)
    lines = []
    if chain.TRAIN in links:
        ranks = elastic.check(run, begun, job, args.rescale, record)
        interrupted = run.submission(chain.TRAIN).get("job_id") is None
        if args.iteration is None and not (interrupted and chain.resume_point(run) is not None):
            record.point = None
        elif args.iteration is not None:
            record.point = ResumePoint(args.iteration, run.newest_attempt())
        lines.append(f"{'train':<12}{elastic.start(run, record.point)}")
        lines += [f"{'ranks':<12}{text}" for text in ranks]
        lines += [f"{'abandoned':<12}{text}" for text in left_by(run, record.point, bool(args.code))]
    else:
        lines.append(f"{'evaluate':<12}the training is "
                     + ("complete" if run.completion() else "alive, and its evaluation is lost"))
    unit = "GPU" if job.device == "cuda" else "CPU rank"
    place = f", partition {job.partition}" if job.partition and choose.of(run).queues else ""
    lines.append(f"{'where':<12}{job.nodes} node(s) × {job.gpus} {unit}(s){place}, time limit {job.time}"
                 + (f" (changed: {', '.join(changes)})" if changes else ""))
    if args.code:
        lines.append(f"{'code':<12}replaced by {', '.join(str(p) for p in snapshots.own_packages())}")
    return ResumePlan(links, job, record, lines, dropped)


def requests(run: Run, plan: ResumePlan) -> list[launcher.JobRequest]:
    """What would be submitted, for inspection; ids that are not known yet are placeholders in capitals."""
    train = "TRAIN_JOB_ID" if chain.TRAIN in plan.links else run.submission(chain.TRAIN).get("job_id")
    train = None if run.completion() else train
    asked = [chain.request(run, plan.job, link, f"ecm-cluster:{run.name}:{link}:TOKEN",
                           train if link != chain.TRAIN else None) for link in plan.links]
    # nodes that the run has excluded so far get another chance
    return [replace(one, job=replace(one.job, exclude=plan.job.exclude)) for one in asked]


def dry_run(run: Run, plan: ResumePlan) -> None:
    """The scripts that would be submitted."""
    print("".join(f"\n{script}\n" for script in choose.of(run).scripts(requests(run, plan))), end="")
    print("dry run: nothing was written or submitted")


def carry_out(run: Run, plan: ResumePlan, args: argparse.Namespace) -> None:
    """Record what changes, then submit; after a crash at any point the same command continues."""
    before, cancelled = run.overrides(), run.cancel_mark()
    if args.code:
        from .plan import create

        plan.overrides.code = create.renew_code(run)
    if plan.overrides != before:
        files.write_json(run.overrides_file, plan.overrides.as_dict())
        files.kill_point("overridden", run.overrides_file)
    attempt = run.newest_attempt()
    # earlier failures no longer count against the run, see attempts/endings.py
    code = {"code": plan.overrides.code["digest"]} if plan.overrides.code else {}
    brief = {**plan.overrides.as_dict(), **code}
    run.ledger(attempt, "resume").write("resumed", stages=plan.links, overrides=brief, cancelled=cancelled is not None)
    for job_id in plan.dropped:
        commands.cancel(job_id, next(job.token for job in submissions.of_run(run) if job.job_id == job_id))
    # the evaluation first: otherwise a crash in between would leave its old job recorded behind a new training
    backend = choose.of(run)
    for link in reversed(backend.records(plan.links)):
        submissions.replace_token(run, link, backend.cluster_name())
    # after the new tokens: they make an earlier job stale, which only the mark kept from continuing
    run.cancel_file.unlink(missing_ok=True)
    try:
        ids = backend.submit(run, plan.job)
    except UserError:
        for link in backend.records(plan.links):
            submissions.take_back_untried(run, link)
        files.write_json(run.overrides_file, before.as_dict())
        if cancelled is not None:
            files.write_json(run.cancel_file, cancelled)  # the same one: sweeps submitted after it continue
        raise
    entries.add(run)
    at_end.submit(run, plan.job, ids)
    say_submitted(run, {name: job_id for name, job_id in ids.items() if name not in chain.links(plan.job)
                        or name in plan.links})


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
