"""Score checkpoints, optionally under a grid of test settings; what has been scored is not scored again."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..backends import choose, liveness
from ..backends.base import Sweep
from ..base import processes
from ..base.errors import UserError
from ..chain import chain, evaluations, locks, requested, submissions
from ..chain.evaluations import Element
from ..console import cli, shell
from ..datacheck import splits
from ..job import eval_settings
from ..job import job as jobs
from ..job.evaluation_options import EVALUATION
from ..job.flags import given_flags, runs_dir_of, without_removed
from ..mmconfig import config
from ..notices import entries
from ..reporting import results
from ..rundir import checkpoints, runs
from ..rundir.run import Run
from ..staging import planned
from ..watching.follow import follow_evaluations
from . import stored
from .arguments import RESOURCES, parser


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.at_once is not None:
        EVALUATION["at_once"].read("at-once", args.at_once)
    if args.code and not args.config:
        raise UserError("code: a run is scored with the code that it was submitted with; leave --code out, or score a "
                        "checkpoint file with --config")
    for option in ("csv", "results_json"):
        if (given := getattr(args, option)) is not None:
            cli.check_writable(option.replace("_", "-"), given)
    given_flags(args)  # an invalid value is reported, whether or not anything is left to submit
    grid = read_grid(args)
    found, plain = [], []
    if args.config:
        from ..plan import plain_checkpoints

        plain = [plain_checkpoints.prepare(Path(name), args, grid) for name in args.run]
    else:
        runs_dir = runs_dir_of(args.runs_dir)
        found = [runs.find(name, runs_dir) for name in args.run]
        entries.look(runs_dir)
    try:
        found = [one.make() for one in plain] or found
        wanted = {run: wanted_of(run, args, grid) for run in found}  # an error is reported before any is submitted
        if args.results_json is not None:
            stored.check_single(wanted)
        for run, elements in wanted.items():
            for line in submit(run, elements, args):
                cli.say(f"{run.name}: {line}", sys.stderr if args.json else sys.stdout)
    except UserError:
        for one in plain:
            one.discard()
        raise
    complete = follow_evaluations(wanted) if args.wait and not args.dry_run else True
    if args.analysis and not args.dry_run:
        stored.analyse(wanted)
    show(wanted, args)
    if args.results_json is not None and not args.dry_run:
        stored.write_results(wanted, args.results_json)
    return cli.EXIT_OK if complete else cli.EXIT_FAILED


def read_grid(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The combinations of settings that the command line asks for."""
    values = eval_settings.read_sweep(Path(args.sweep)) if args.sweep is not None else {}
    given: dict[str, str] = {}
    for text in args.vary:
        name, value = config.parse_option(text)
        if given.setdefault(name, text) != text:
            raise UserError(f"vary: {given[name]!r} and {text!r}: expected all values together, as {name}=V1,V2")
        values[name] = value
    if args.fixed and values.setdefault("fixed", True) is not True:
        raise UserError("fixed: given by --fixed and by --vary or --sweep; expected one of them")
    return eval_settings.grid(values, f"{args.sweep}: " if args.sweep and not args.vary else "")


def wanted_of(run: Run, args: argparse.Namespace, grid: Sequence[dict[str, Any]]) -> list[Element]:
    """Every element that is requested of a run, done or not.

    Raises:
        UserError: The run has no such checkpoint, or its config has nothing that a setting could change.
    """
    if run.spec.job.trainer is not None:
        raise UserError(f"RUN: {run.name} was trained by {run.spec.job.trainer}; evaluations exist for mmdet's trainer "
                        "alone")
    best = None
    if args.checkpoints == "best":
        name = results.best(run, args.sort).provenance["checkpoint"]
        best = next((m for m in checkpoints.accepted(run) if m.file == name), None)
        if best is None:
            raise UserError(f"checkpoints: the best of {run.name} is {name}, which no longer exists; use "
                            "--checkpoints all")
    places = requested.parse_places(run, args.checkpoints, best)
    return requested.combine(places, requested.changing(config.read_frozen(run.config_file), grid))


def submit(run: Run, wanted: Sequence[Element], args: argparse.Namespace) -> list[str]:
    """Queue what is neither scored nor queued; returns what happened, in lines."""
    backend = choose.of(run)
    # if all is done, nothing is written, so the run may be read-only or another's
    if not (scored := evaluations.all_done(run, wanted)):
        run.require_own("score")
    with contextlib.nullcontext() if scored or args.dry_run else locks.run_lock(run):
        missing = [e for e in wanted if not evaluations.done(run, e)]
        queued = [] if not missing else waiting(run)
        new = [e for e in missing if not any(covers(run, q, e) for q in queued)]
        lines = [f"{len(wanted) - len(missing)} of {len(wanted)} scored already"] if len(missing) < len(wanted) else []
        if len(new) < len(missing):
            lines.append(f"{len(missing) - len(new)} queued already")
        if not new:
            return lines
        _require_fixed(run, new)
        # test data that was not checked at submission, or has changed since
        staged = planned.Staging.of(run.spec.staging, run.job()) if run.spec.staging else None
        cfg = config.read_frozen(run.config_file)
        problems = splits.check(cfg, staged, scored=True, trained=False).problems
        if problems and not args.dry_run:
            raise UserError(problems[0])
        lines += [f"would be refused: {text}" for text in problems]
        if backend.queues:
            lines += shell.ignored(os.environ, place_of(run.job(chain.TRAIN), args, False))
        if not args.dry_run:
            cli.acts()
            backend.require("evaluate from a login node")
            submissions.require_owner(run, shlex.join(["python", "-m", "ecm_cluster.evaluate", *sys.argv[1:]]))
        inferred = [element for element, work in zip(new, evaluations.works(run, new))
                    if work is not None and evaluations.has_detections(work)]
        for sweep in backend.sweeps(new, inferred):
            lines += _queue(run, sweep, args)
    return lines


def _require_fixed(run: Run, elements: Sequence[Element]) -> None:
    """Refuse Fixed AP where the run's frozen code would ignore it: an ordinary AP would bear its name."""
    # both came with the same version
    if any(way.get("fixed") for e in elements for way in e.scoring) and not processes.knows("analysis", run.code_dir):
        raise UserError(f"fixed: the code of {run.name} is of an earlier version, which does not have Fixed AP; score "
                        "its checkpoint file with --config, or leave fixed out")


def _queue(run: Run, sweep: Sweep, args: argparse.Namespace) -> list[str]:
    said = f"{len(sweep.elements)} to score ({sweep.words})"
    if args.dry_run:
        return [said + ": " + "; ".join(f"{e.at}: {eval_settings.label(e.settings)}" for e in sweep.elements)]
    job = place_of(run.job(), args, sweep.scoring_only)
    link = chain.next_sweep(run)
    # on record before sbatch: the job's tasks read there what they score
    evaluations.write(run, link, sweep.elements, job)
    try:
        return [f"{said}: {choose.of(run).submit_sweep(run, job, link)}"]
    except UserError:
        if not run.submission(link).get("token"):  # rejected: there is no job, and never will be
            run.elements_file(link).unlink(missing_ok=True)
        raise


def place_of(job: jobs.Job, args: argparse.Namespace, scoring_only: bool) -> jobs.Job:
    """The job with the resources of the command line; one process without a GPU where none is needed."""
    given = without_removed({k: v for k, v in given_flags(args).items() if k in RESOURCES})
    own = {name: given.pop(name) for name in set(given) & set(EVALUATION)}
    block = dataclasses.replace(job.evaluation, **own, **({"at_once": args.at_once} if args.at_once else {}))
    if scoring_only:
        block = dataclasses.replace(block, nodes=1, gpus=1)
        given["device"] = "cpu"
    return dataclasses.replace(job, evaluation=block, **given)


def waiting(run: Run) -> list[Element]:
    """Elements of links whose jobs are pending or running."""
    live = liveness.alive(run)
    if live is None:
        raise UserError("cluster: Slurm does not answer, so it is unknown what is queued already; try again when it "
                        "does")
    links = [link for link in submissions.recorded_links(run)
              if link != chain.TRAIN and set(submissions.job_ids(run, link)) & set(live)]
    return [element for link in links for element in evaluations.read(run, link)]


def covers(run: Run, queued: Element, asked: Element) -> bool:
    """Whether a queued element includes everything that is requested."""
    def where(element: Element) -> Any:
        work = evaluations.of_element(run, element)
        return work.path if work is not None else (element.at, json.dumps(element.settings, sort_keys=True))

    return where(queued) == where(asked) and all(variant in queued.scoring for variant in asked.scoring)


def show(wanted: dict[Run, list[Element]], args: argparse.Namespace) -> None:
    """Print the table of what has been scored of what was requested; also written into each run."""
    found = []
    for run, elements in wanted.items():
        scored = {(work.path, evaluations.scoring_variant(variant)) for e in elements
                  if (work := evaluations.of_element(run, e)) is not None for variant in e.scoring}
        found += [row for row in results.rows(run)
                  if (row.work.path, evaluations.scoring_variant(eval_settings.split(row.settings)[1])) in scored]
    metric = results.metric_name(args.sort, found)
    results.columns(args.columns, found)
    for run in wanted if not args.dry_run else ():
        results.keep(run)
    for what in {what: None for run in wanted for what in run.damage}:
        cli.say(f"warning: damaged: {what}", sys.stderr)
    found = results.ranked(found, metric)
    if args.csv:
        cli.write_file("csv", args.csv, results.as_csv(found))
    if args.json:
        print(json.dumps(results.as_records(found), indent=1))
    elif found:
        print(f"\n{results.table(found, args.columns)}\n(by {results.in_words(metric)}, best first)")
    if args.analysis and not args.json:
        stored.show(wanted)
