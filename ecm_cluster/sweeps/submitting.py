"""From a grid to submitted runs: all of it is validated first, then each missing run is created and submitted.

Each run is submitted separately, not as an element of a job array: it keeps a chain of its own (training, evaluation,
successors after a preemption), is requeued, cancelled and resumed alone, and may ask for other resources than its
neighbours. Where only some may be at work at once, the training of one waits in Slurm for the end of another's chain;
on this machine the submission itself waits before it starts the next.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..backends import choose
from ..base import files, folders
from ..base.errors import Failed, UserError
from ..chain import chain, locks
from ..checking import check
from ..console import cli
from ..job import job as jobs
from ..job import sharing
from ..notices import entries, urls
from ..plan import create, planning
from ..plan.plan import Plan
from ..rundir.run import Run
from . import agreement, axes, follow, grid_text
from . import group as groups
from .cells import Cell, combine
from .group import Group


def submit(base: jobs.Job, args: argparse.Namespace) -> int:
    """Submit the runs of a group that are missing; the verb's exit code.

    Raises:
        UserError: A run cannot be as it is asked for; nothing was submitted.
        Failed: Slurm refused a run; those before it are submitted.
    """
    urls.check(base.notify.get("urls", ()))
    varied = axes.read(args.vary, args.sweep)
    agreement.check_flags(varied, args)
    group = _group(base, args)
    varied = agreement.in_recorded_order(group, varied)
    cells = combine(group.name, base, varied)
    agreement.check(group, args.cluster, agreement.common(base, varied), cells)
    known = [cell.settings for cell in group.cells]
    group.cells += [replace(cell, job=None) for cell in cells if cell.settings not in known]
    group.job, group.varied = agreement.common(base, varied), [axis.key for axis in varied]
    plans = plan_all([cell for cell in cells if group.run_of(cell) is None], args.cluster)
    missing = [cell for cell in cells if not _is_submitted(group.run_of(cell))]
    print(grid_text.describe(group, cells, missing, plans, choose.by_name(args.cluster).queues), flush=True)
    for text in dict.fromkeys(text for _, plan in plans for text in plan.warnings):
        cli.say(f"warning: {text}", sys.stderr)
    refused = list(dict.fromkeys(f"{cell.name}: {text}" for cell, plan in plans for text in plan.problems))
    if args.dry_run:
        for text in refused:
            cli.say(f"would be refused: {text}", sys.stderr)
        if args.check and not refused:
            check_all(plans, args)
        print("dry run: nothing was written or submitted")
        return cli.EXIT_OK
    if refused:
        raise UserError(refused[0])
    frozen = check_all(plans, args)
    entries.look(group.path.parent)
    _create_folder(group, base)
    with _lock(group):
        group.write()
        for run in group.runs():
            with contextlib.suppress(UserError):
                chain.submit_refused(run)  # evaluations that Slurm refused when their training went in
        submit_missing(group, missing, plans, frozen)
    cli.say(f"next:\n  python -m ecm_cluster.status {_shown(group)}\n  python -m ecm_cluster.compare {_shown(group)}\n"
            f"  python -m ecm_cluster.cancel {_shown(group)}")
    return follow.follow(group.runs()) if args.wait else cli.EXIT_OK


def _shown(group: Group) -> str:
    return shlex.quote(folders.shortest(group.path))


def _group(base: jobs.Job, args: argparse.Namespace) -> Group:
    """The group of this name, or a new one; nothing is written."""
    runs_dir = folders.absolute(base.runs_dir)
    path = runs_dir / (base.name or create.next_name(runs_dir, f"{Path(base.config).stem}-group"))
    if os.path.lexists(Run(path).run_file):
        raise UserError(f"name: a run {path.name!r} already exists ({path}); use another --name")
    group = groups.find(path.name, runs_dir) or Group(path, args.cluster)
    if os.path.lexists(group.file):
        group.require_own()
    default = 0 if choose.by_name(args.cluster).queues else 1
    if args.at_once is not None and args.at_once < 1:
        raise UserError(f"at-once: invalid value {args.at_once}; expected 1 or more")
    group.at_once = args.at_once or group.at_once or default
    return group


def plan_all(cells: Sequence[Cell], where: str) -> list[tuple[Cell, Plan]]:
    """The plan of each cell; those that differ only in the seed share one.

    Raises:
        UserError: A config cannot be read, or requests what is not supported; the message names the run.
    """
    made: dict[str, Plan] = {}
    found = []
    for cell in cells:
        assert cell.job is not None
        alike = repr(replace(cell.job, name=None, seed=0))
        try:
            if alike not in made:
                made[alike] = planning.make(cell.job, where)
        except UserError as error:
            raise UserError(f"{cell.name}: {error}") from None
        found.append((cell, replace(made[alike], job=cell.job)))
    return found


def check_all(plans: Sequence[tuple[Cell, Plan]], args: argparse.Namespace) -> dict[str, create.Frozen]:
    """Ask Slurm about each kind of job, and build and step each model once; the frozen parts by the run's name.

    Raises:
        UserError: One cannot work; the message names the run.
    """
    asked: set[str] = set()
    frozen: dict[str, create.Frozen] = {}
    made: dict[int, create.Frozen] = {}  # by the config, which cells that differ only in the seed share
    for cell, plan in plans:
        kind = repr({**plan.job.as_dict(), "name": "", "seed": 0, "config": "", "options": {}})
        try:
            if kind not in asked and not args.dry_run:
                planning.check_with_slurm(plan, Run(folders.absolute(plan.job.runs_dir) / cell.name))
            if id(plan.cfg) not in made:
                made[id(plan.cfg)] = create.freeze(plan, fetch=not args.dry_run)
                print(f"{cell.name}:", flush=True)
                check.check(plan, made[id(plan.cfg)], args.check, args.verbose)
        except UserError as error:
            raise UserError(f"{cell.name}: {error}") from None
        asked.add(kind)
        frozen[cell.name] = made[id(plan.cfg)]
    return frozen


def _create_folder(group: Group, base: jobs.Job) -> None:
    try:
        with contextlib.suppress(FileExistsError):
            sharing.make(group.path)
        locks.require_own_folder(Run(group.path))
        sharing.open_to(group.path, base.share)
        files.private_file(group.path / groups.LOCK)
    except FileExistsError:
        raise UserError(f"name: {group.path} exists and is not a group; use another --name or --runs-dir") from None
    except OSError as error:
        raise locks.not_created(Run(group.path), error) from None


@contextlib.contextmanager
def _lock(group: Group):
    try:
        with files.locked(group.path / groups.LOCK, locks.PATIENCE):
            yield
    except BlockingIOError:
        raise UserError(f"name: another process is submitting runs of {group.name}; try again when it is done"
                        ) from None


def submit_missing(group: Group, missing: Sequence[Cell], plans: Sequence[tuple[Cell, Plan]],
                   frozen: dict[str, create.Frozen]) -> None:
    """Create and submit each run that is missing, in order.

    Raises:
        Failed: One was refused.
    """
    backend = choose.by_name(group.cluster)
    for cell, plan in plans:  # all of them first: they are to have the same code, however long the last one waits
        _create(group, cell, plan, frozen[cell.name])
    for cell in missing:
        Run(group.path.parent / cell.name).cancel_file.unlink(missing_ok=True)  # asked for again
    line = [run for run in group.runs() if _is_submitted(run) and backend.alive(run) != {}] if group.at_once else []
    for done, cell in enumerate(missing):
        run = Run(group.path.parent / cell.name)
        try:
            if not backend.queues:
                wait_for_room(line, group.at_once)
            if run.cancelled():
                print(f"{cell.name}: cancelled, not submitted", flush=True)
                continue
            before = line[-group.at_once] if group.at_once and len(line) >= group.at_once else None
            ids = _submit_one(run, _last_job(before) if before else None)
        except (UserError, OSError) as error:
            raise Failed(f"{cell.name}: {error}; {done} of {len(missing)} runs were submitted, and the same command "
                         f"with --name {shlex.quote(group.name)} submits the rest") from None
        line.append(run)
        print(f"{cell.name}: " + ", ".join(f"{link} {job_id}" for link, job_id in ids.items()), flush=True)
        if refused := chain.refusal(run):
            cli.say(f"warning: {cell.name}: {chain.half_a_chain(run, refused)}", sys.stderr)


def _create(group: Group, cell: Cell, plan: Plan, frozen: create.Frozen) -> None:
    run = Run(group.path.parent / cell.name)
    try:
        with locks.creation_lock(run):
            if not run.run_file.exists():
                create.create(run, plan, frozen, {"name": group.name, "settings": dict(cell.settings)})
    except OSError as error:
        raise locks.not_created(run, error) from None


def _submit_one(run: Run, after: str | None) -> dict[str, str]:
    backend = choose.of(run)
    with locks.run_lock(run):
        backend.adopt(run)
        return backend.submit(run, run.job(), after)


def _is_submitted(run: Run | None) -> bool:
    return run is not None and bool(run.submission(chain.TRAIN).get("job_id"))


def _last_job(run: Run) -> str | None:
    """The job at the end of a run's chain: it ends after all others, those that continue a preempted one included."""
    jobs_of = [submission.job_id for submission in run.submissions() if submission.job_id]
    return jobs_of[-1] if jobs_of else None


def wait_for_room(started: Sequence[Run], at_once: int) -> None:
    """On this machine: until fewer than ``at_once`` runs are at work."""
    said = False
    while len(busy := [run for run in started if choose.of(run).alive(run) != {}]) >= at_once:
        if not said:
            print(f"waiting for {', '.join(run.name for run in busy)}; Ctrl-C starts no further run", flush=True)
        said = True
        time.sleep(1.0)
