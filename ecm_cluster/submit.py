"""Submit a training run and its evaluation."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .base import folders, units
from .base.errors import UserError
from .chain import locks
from .console import cli
from .interface.module import make_callable
from .job import job as jobs
from .job.flags import add_flags, evaluation_flags, given_flags
from .rundir.run import Run
from .sweeps.flags import add_group_flags, asks_for_group

EPILOG = """examples:
  python -m ecm_cluster.submit --nodes 1 --gpus 8 --data-root /datasets/lvis_v1
  python -m ecm_cluster.submit jobs/r50_1x.yaml --nodes 2 --gpus 8 --dry-run
  python -m ecm_cluster.submit --config my_config.py --code my_modules --set optimizer.lr=0.01
  python -m ecm_cluster.submit --like first --set optimizer.lr=0.02
  python -m ecm_cluster.submit demo --cluster local --wait
  python -m ecm_cluster.submit r50_1x --name rates --vary seed=0,1,2 --vary optimizer.lr=0.01,0.02
"""


def parser() -> argparse.ArgumentParser:
    made = cli.Parser(prog="python -m ecm_cluster.submit", description=__doc__, epilog=EPILOG)
    made.add_argument("job", nargs="?", metavar="JOB", help="job file, or its name in jobs/ (default: ECM, R50, 1x)")
    made.add_argument("--like", metavar="RUN", help="submit the job of this run again, with the config that it "
                      "trained, under a new name; flags and --set override")
    made.add_argument("--cluster", choices=("slurm", "local"), help="slurm, or local: this machine, without Slurm "
                      "(default: slurm; with --like: the run's)")
    add_flags(made)
    made.add_argument("--set", dest="options", action="append", default=[], metavar="KEY=VALUE",
                      help="mmdet option, e.g. optimizer.lr=0.01; +KEY=VALUE sets it unchecked; may be repeated")
    add_group_flags(made)
    made.add_argument("--no-eval", action="store_true", help="do not submit an evaluation")
    made.add_argument("--eval-epochs", metavar="EPOCHS", help="score these epochs besides the last: all, or 4,8")
    made.add_argument("--eval-every", type=int, metavar="N", help="score every N-th epoch besides the last (iteration, "
                      "where the config counts those)")
    made.add_argument("--eval-while-training", action="store_true", help="score checkpoints as they are committed")
    made.add_argument("--wait", action="store_true", help="follow the run until it ends")
    made.add_argument("--check", choices=("here", "job"), help="build model, data and runner and take one step before "
                      "anything is submitted: here (the default where torch and mmdet are installed, at most 20 s), "
                      "or in a short job; also in a dry run")
    made.add_argument("--no-check", dest="check", action="store_const", const="none", help="skip that check (always: "
                      "export ECM_CLUSTER_CHECK=none)")
    made.add_argument("--verbose", action="store_true", help="show the traceback of a check that fails")
    made.add_argument("--dry-run", action="store_true", help="print plan and sbatch scripts, write nothing")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(["--check=here" if word == "--check" else word for word in words])
    job = read_job(args)
    if not args.dry_run:
        from .backends import choose

        cli.acts()
        folders.check_working_directory()
        choose.require(args.cluster)
    run_dir = folders.absolute(job.runs_dir)
    if asks_for_group(run_dir, job, args):
        from .sweeps import submitting

        return submitting.submit(job, args)
    run = submit(run_dir, job, args)
    if run is not None and args.wait:
        from .watching import follow

        return follow.follow(run)
    return cli.EXIT_OK


def submit(run_dir: Path, job: jobs.Job, args: argparse.Namespace) -> Run | None:
    """Create the run and submit its chain, or submit what is missing of an existing one; None after a dry run."""
    if job.name and os.path.exists(Run(run_dir / job.name).run_file) and not args.dry_run:
        with locks.creation_lock(Run(run_dir / job.name)):
            return finish_submitting(Run(run_dir / job.name), job, args)

    from .checking import check
    from .notices import entries, urls
    from .plan import create, plan_text, planning

    urls.check(job.notify.get("urls", ()))
    if not args.dry_run:
        entries.look(run_dir)
    plan = planning.make(job, args.cluster)
    run = Run(run_dir / (job.name or create.next_name(run_dir, plan.config_path)))
    cli.say(f"run {run.path}\n{plan_text.describe(plan)}")
    for text in plan.warnings:
        cli.say(f"warning: {text}", sys.stderr)
    if args.dry_run:
        dry_run(run, plan)
        if args.check and not plan.problems:
            check.check(plan, create.freeze(plan, fetch=False), args.check, args.verbose)
        return None
    if plan.problems:
        raise UserError(plan.problems[0])
    planning.check_with_slurm(plan, run)
    frozen = create.freeze(plan)
    check.check(plan, frozen, args.check, args.verbose)
    with locks.creation_lock(run) if job.name else contextlib.nullcontext():
        if job.name and run.run_file.exists():
            return finish_submitting(run, job, args)
        try:
            run = create.create(run, plan, frozen)
        except OSError as error:
            raise locks.not_created(run, error) from None
        return start(run, plan.job, args)


def read_job(args: argparse.Namespace) -> jobs.Job:
    """The validated job of a command line."""
    from .backends import choose
    from .console import shell
    from .mmconfig import config
    from .rundir import repeat

    flags: dict[str, Any] = given_flags(args)
    if args.options:
        flags["options"] = config.parse_options(args.options)
    if evaluation_flags(args):
        flags["evaluation"] = evaluation_flags(args)
    like, record = repeat.asked(args.like, args.job, flags) if args.like else (None, None)
    args.cluster = args.cluster or (like.spec.cluster if like else "slurm")
    defaults = shell.defaults(os.environ) if choose.by_name(args.cluster).queues else None
    job = jobs.load(args.job, flags, defaults, record)
    units.check_run_path("runs-dir", str(folders.absolute(job.runs_dir)))
    units.check_run_path("name", job.name or "")
    if job.name and (os.sep in job.name or job.name.startswith(".")):
        raise UserError(f"name: invalid value {job.name!r}; expected a plain directory name, below --runs-dir")
    return job


def dry_run(run: Run, plan: Any) -> None:
    """Print the scripts that would be submitted, and what would be refused."""
    from .backends import choose
    from .chain import chain

    asked = [chain.request(run, plan.job, link, f"ecm-cluster:{run.name}:{link}:TOKEN",
                           "TRAIN_JOB_ID" if link != chain.TRAIN else None,
                           elements=1 if link == chain.TRAIN else len(plan.elements))
             for link in chain.links(plan.job)]
    print("".join(f"\n{script}\n" for script in choose.by_name(plan.where).scripts(asked)), end="")
    for text in plan.problems:
        cli.say(f"would be refused: {text}", sys.stderr)
    print("dry run: nothing was written or submitted")


def start(run: Run, job: jobs.Job, args: argparse.Namespace) -> Run:
    """Submit the chain; print what was done and which commands to use next."""
    from .backends import choose
    from .notices import at_end, entries

    ids = choose.of(run).submit(run, job)
    entries.add(run)
    at_end.submit(run, job, ids)
    say_submitted(run, ids, f"python -m ecm_cluster.logs {shlex.quote(folders.shortest(run.path))} -f")
    return run


def say_submitted(run: Run, ids: dict[str, str], *more: str) -> None:
    """Print what was submitted, what was refused, and which commands to use next, ``more`` among them."""
    from .chain import chain

    print("submitted: " + ", ".join(f"{link} {job_id}" for link, job_id in ids.items()))
    name = shlex.quote(folders.shortest(run.path))
    if chain.TRAIN in ids and (refused := chain.refusal(run)):
        cli.say(f"warning: train {ids[chain.TRAIN]} is submitted; {chain.half_a_chain(run, refused)}", sys.stderr)
    lines = ["next:", f"python -m ecm_cluster.status {name}", *more, f"python -m ecm_cluster.cancel {name}"]
    cli.say("\n  ".join(lines))


def finish_submitting(run: Run, asked: jobs.Job, args: argparse.Namespace) -> Run:
    """A run of this name exists: submit what its interrupted submission had not submitted yet, or refuse."""
    from .backends import choose
    from .chain import chain, submissions

    with locks.run_lock(run):
        job, backend = run.job(), choose.of(run)
        found = backend.adopt(run)
        wanted = backend.records(chain.links(job))
        recorded = [s.link for s in run.submissions() if s.job_id]
        if set(wanted) <= set(recorded) and not found:
            raise UserError(f"name: a run {run.name!r} already exists ({run.path}); use another --name, or leave it "
                            "out")
        refuse_other_settings(run, job, asked, args)
        submissions.require_owner(run, chain.continue_line(run))
        print(f"run {run.path}: its submission was interrupted; continuing it")
        if not recorded:
            run.cancel_file.unlink(missing_ok=True)  # of a `cancel` before any of it was submitted
        return start(run, job, args)


def refuse_other_settings(run: Run, begun: jobs.Job, asked: jobs.Job, args: argparse.Namespace) -> None:
    """An interrupted submission continues with its original settings; others given now must not be ignored."""
    from .chain import chain
    from .rundir import job_env

    other = {"cluster"} if args.cluster != run.spec.cluster else set()
    if args.job or args.options or evaluation_flags(args) or set(given_flags(args)) - {"name", "runs_dir"}:
        old, new = begun.as_dict(), asked.as_dict()
        other |= {key for key in new if key not in ("name", "runs_dir", "env", "notify") and new[key] != old[key]}
        other |= set() if job_env.same(run, begun, asked) else {"env"}
        other |= set() if job_env.same_notify(run, begun, asked) else {"notify"}
    if other:
        raise UserError(f"name: the submission of {run.name!r} was interrupted, and had another "
                        f"{', '.join(sorted(other))}; continue it with `{chain.continue_line(run)}`, or use "
                        "another --name")


make_callable(__name__)

if __name__ == "__main__":
    raise SystemExit(cli.run(main))
