"""Print the log of a run: the training's, over all attempts; or that of a rank, of an evaluation, of a job."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence

from .backends import choose, liveness
from .base import folders
from .base.errors import UserError, shown
from .console import cli, output
from .job import job as jobs
from .reporting import log_files
from .reporting import state as states
from .reporting.follow import ENDED, PATIENCE
from .reporting.log_choice import Choice
from .reporting.log_files import Part
from .reporting.tolerant import TolerantRun
from .rundir import runs, training_log
from .status import finite

EPILOG = """examples:
  python -m ecm_cluster.logs first
  python -m ecm_cluster.logs first -f
  python -m ecm_cluster.logs first --attempt last --rank 3
  python -m ecm_cluster.logs first --evaluation 12000 -n 50
  python -m ecm_cluster.logs first --json | jq '[.iteration, .loss]'
"""
SHOWN_FIRST = 20  # lines that --follow begins with
LOOK_SECONDS = 0.5  # between two looks at a log that is followed
TRAINED = ("evaluating", "complete")  # states in which nothing is added to the training's log any more


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
    made.add_argument("-f", "--follow", action="store_true", help="go on printing what is added, over restarts, until "
                      "the run has ended")
    made.add_argument("-n", "--lines", metavar="N", help="the last N lines only, or all (default: all; with --follow "
                      f"{SHOWN_FIRST})")
    made.add_argument("--json", action="store_true", help="print the logged losses of all attempts as JSON lines, "
                      "without repeated iterations")
    made.add_argument("--runs-dir", default=None, help="directory that holds the runs (default: the site's, else runs)")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    lines = count_of(args)
    run = runs.find(args.run, folders.absolute(args.runs_dir or jobs.load(None, {}).runs_dir))
    _ = run.spec
    run = TolerantRun(run.path)
    choice = Choice(run, args.evaluation, args.attempt, args.rank, args.job)
    if args.json:
        print_json(choice, lines)
    elif not args.follow or choice.is_over():
        show(choice, lines)
    else:
        follow(choice, lines)
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


def show(choice: Choice, lines: int | None) -> None:
    """Print what there is; one line about why there is nothing."""
    note, parts = choice.parts()
    if note:
        say(note)
    write(parts if lines is None else log_files.last_lines(parts, lines))
    hint = choice.hint()
    if hint:
        say(hint)
    if not parts:
        state = states.fold([choice.run])[0]
        say(f"there is no log{choice.words} yet; {state.run} is {state.state}: {state.reason}")
        if state.next:
            say(f"next: {state.next}")


def write(parts: Sequence[Part]) -> None:
    """Print parts of logs, with a title each if there are several."""
    for part in parts:
        if len(parts) > 1:
            print(f"==> {part.path} <==")
        for text in log_files.text_of(part):
            print(text, end="")
            if output.is_closed(sys.stdout):
                return


def say(text: str) -> None:
    """A line about the log, apart from it."""
    sys.stdout.flush()
    cli.say(text, sys.stderr)


def follow(choice: Choice, lines: int | None) -> None:
    """Print what there is and what is added, until nothing more can be, or nobody reads it."""
    _, parts = choice.parts(follow=True)
    parts = parts if lines is None else log_files.last_lines(parts, lines)
    write(parts[:-1])
    log = log_files.Growing(parts[-1].path, parts[-1].begin) if parts else None
    ending, is_over = Ending(choice), False
    while not is_over and not output.is_closed(sys.stdout, LOOK_SECONDS if ending.asked else 0.0):
        is_over = ending.reached()  # asked first: what was written before is read after it
        for text in log.read() if log else ():
            print(text, end="")
            ending.asked = time.monotonic()
        path = choice.path()
        if path is not None and (log is None or log.path != path):  # of the job that came after
            log, is_over = log_files.Growing(path), False
        sys.stdout.flush()
    if log is not None and log.at:
        print(log.rest(), end="")
    elif is_over:
        show(choice, lines)


class Ending:
    """Whether a log that is followed has come to its end; changes of the run's state are told meanwhile.

    Attributes:
        asked: When it was asked last, or something was added: nothing ends in between.
    """

    def __init__(self, choice: Choice) -> None:
        self.choice, self.pause = choice, choose.of(choice.run).poll_seconds
        self.asked, self.since, self.said = 0.0, 0.0, ""

    def reached(self) -> bool:
        now = time.monotonic()
        if now - self.asked < self.pause:
            return False
        self.asked = now
        state = states.fold([self.choice.run])[0]
        self._tell(state)
        if self.choice.is_of_training:
            certain = state.state in ("done", *TRAINED)
            over = certain or state.state in ENDED
        else:
            certain = self.choice.is_scored()
            over = certain or liveness.alive(self.choice.run) == {}
        self.since = (self.since or now) if over else 0.0
        return over and (certain or now - self.since > PATIENCE)

    def _tell(self, state: states.RunState) -> None:
        text = f"{state.state}: {state.reason}"
        if (words := re.sub("[0-9.]+", "", text)) != self.said and text != "running: training":
            say(f"-- {text}")
        self.said = words


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
