"""Print the log of a run: the training's, over all attempts; or that of a rank, of an evaluation, of a job."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence

from ..base.errors import UserError, shown
from ..console import cli
from ..job.flags import add_runs_dir, runs_dir_of
from ..reporting.tables import finite
from ..reporting.tolerant import TolerantRun
from ..rundir import runs, training_log
from . import printing
from .choice import Choice

EPILOG = """examples:
  python -m ecm_cluster.logs first
  python -m ecm_cluster.logs first -f
  python -m ecm_cluster.logs first --attempt last --rank 3
  python -m ecm_cluster.logs first --evaluation 12000 -n 50
  python -m ecm_cluster.logs first --json | jq '[.iteration, .loss]'
"""
SHOWN_FIRST = 20  # lines that --follow begins with


def parser() -> argparse.ArgumentParser:
    made = cli.Parser(prog="python -m ecm_cluster.logs", description=__doc__, epilog=EPILOG)
    made.add_argument("run", metavar="RUN", help="a run directory, or the name of a run")
    made.add_argument("--attempt", metavar="N", help="what this attempt wrote; last: the newest one")
    made.add_argument("--rank", type=int, metavar="R", help="everything that this rank printed, and its stacks if it "
                      "hung")
    made.add_argument("--evaluation", metavar="K", help="the log of an evaluation: its checkpoint's iteration, last, "
                      "its directory's name or a part of that, or its number among them")
    made.add_argument("--job", action="store_true", help="what the jobs printed before any rank began: setup lines, "
                      "srun, the local driver")
    made.add_argument("-f", "--follow", action="store_true", help="keep printing what is added, over restarts, until "
                      "the run has ended")
    made.add_argument("-n", "--lines", metavar="N", help="the last N lines only, or all (default: all; with --follow "
                      f"{SHOWN_FIRST})")
    made.add_argument("--json", action="store_true", help="print the logged losses of all attempts as JSON lines, "
                      "without repeated iterations")
    add_runs_dir(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    lines = count_of(args)
    run = runs.find(args.run, runs_dir_of(args.runs_dir))
    _ = run.spec
    run = TolerantRun(run.path)
    choice = Choice(run, args.evaluation, args.attempt, args.rank, args.job)
    if args.json:
        print_json(choice, lines)
    elif not args.follow or choice.is_over():
        printing.show(choice, lines)
    else:
        printing.follow(choice, lines)
    for what in list(run.damage):
        print(f"warning: damaged: {what}", file=sys.stderr)
    return cli.EXIT_OK


def count_of(args: argparse.Namespace) -> int | None:
    """How many lines are asked for; None: all.

    Raises:
        UserError: The value is invalid, or options exclude each other.
    """
    for name in ("rank", "evaluation", "job", "follow"):
        if args.json and (getattr(args, name) is not None and getattr(args, name) is not False):
            raise UserError(f"json: the logged losses are those of the training; leave --{name} out")
    if args.rank is not None and args.rank < 0:
        raise UserError(f"rank: invalid value {args.rank}; expected 0 or more")
    if args.lines is None:
        return SHOWN_FIRST if args.follow else None
    if args.lines != "all" and not re.fullmatch("[0-9]{1,12}", args.lines):
        raise UserError(f"lines: invalid value {shown(args.lines)}; expected a whole number, or all")
    return None if args.lines == "all" else int(args.lines)


def print_json(choice: Choice, lines: int | None) -> None:
    """The folded training log, or what one attempt logged."""
    rows = training_log.fold(choice.run) if choice.attempt is None else training_log.read(choice.run, choice.attempt)[1]
    for row in rows[len(rows) - min(len(rows), lines):] if lines is not None else rows:
        print(json.dumps(finite(row)))
