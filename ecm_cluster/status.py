"""Show what every run is doing, and why; with one RUN, its timeline."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import sweeps
from .backends import choose, liveness
from .base import fileserver, folders
from .base.errors import UserError
from .base.units import duration_text, moment
from .chain import chain, submissions
from .console import cli, layout
from .job.flags import add_runs_dir, runs_dir_of
from .notices import entries
from .reporting import goodput, results, runs_table, timeline
from .reporting import state as states
from .reporting.tables import finite
from .reporting.tolerant import TolerantRun
from .rundir import runs
from .rundir.run import Run
from .sweeps import table as group_table
from .watching import watch as watching

LONGEST_SECONDS = 86400  # between two looks
EPILOG = """examples:
  python -m ecm_cluster.status
  python -m ecm_cluster.status runs/mask_rcnn_r50_1x-001
  python -m ecm_cluster.status first second 'exp-*'
  python -m ecm_cluster.status --watch
  python -m ecm_cluster.status --json | jq '.[] | {run, state, iteration}'
"""


def parser() -> argparse.ArgumentParser:
    made = cli.Parser(prog="python -m ecm_cluster.status", description=__doc__, epilog=EPILOG)
    made.add_argument("run", nargs="*", metavar="RUN", help="run directories, names of runs or of groups of runs, or "
                      "patterns of names such as 'exp-*'; one name shows that run's timeline (default: all runs)")
    add_runs_dir(made)
    made.add_argument("--full", action="store_true", help="with one RUN: every event, instead of a line per attempt")
    made.add_argument("--goodput", action="store_true", help="show where the time of the jobs went, by cause")
    made.add_argument("--watch", nargs="?", const=f"{watching.SECONDS:g}", metavar="SECONDS", help="show runs that are "
                      "at work or waiting, again and again until they have ended (default: every %(const)s s)")
    made.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    seconds = watch_seconds(args)
    runs_dir = runs_dir_of(args.runs_dir)

    group = sweeps.find(args.run[0], runs_dir) if len(args.run) == 1 else None

    def find() -> list[Run]:
        return group.runs() if group else runs_of(args.run, runs_dir, named=bool(args.runs_dir))

    found = find()
    single = group is None and len(args.run) == 1 and not runs.is_pattern(args.run[0], runs_dir)
    if single:
        _ = found[0].spec  # if only one run is shown, it is an error if it cannot be read
    entries.look(runs_dir, *(run.path.parent for run in found))
    shown = [TolerantRun(run.path) for run in found]
    folded = look(found, shown)
    if group is not None and args.json and not args.goodput:
        print(json.dumps(finite(group_table.as_dict(group, folded)), indent=1))
    elif group is not None and seconds is None and not args.goodput:
        layout.show(group_table.lines(group, folded, layout.width(), layout.is_colored()))
    elif not found and not args.json:
        cli.say(f"no runs in {runs_dir}; `python -m ecm_cluster.submit` submits one")
    elif seconds is not None:
        watching.watch(find, bool(args.run), seconds)
    elif args.json:
        print(json.dumps(finite(as_json(shown, folded, single, args.goodput)), indent=1))
    elif args.goodput:
        print(goodput.table(list(accounts_of(shown, folded).values()), layout.width()))
    elif single:
        with shown[0].footprint.noting():
            print_run(shown[0], folded[0], args.full)
    else:
        print_table(folded)
    return cli.EXIT_OK


def watch_seconds(args: argparse.Namespace) -> float | None:
    """Seconds between two looks of ``--watch``; in ``--watch RUN`` argparse takes the run for them."""
    if args.watch is None:
        return None
    for name in ("json", "full", "goodput"):
        if getattr(args, name):
            raise UserError(f"watch: --{name} has no meaning with --watch; leave one of them out")
    try:
        seconds = float(args.watch)
    except ValueError:
        args.run.insert(0, args.watch)
        return watching.SECONDS
    if not 1 <= seconds <= LONGEST_SECONDS:
        raise UserError(f"watch: invalid value {args.watch}; expected seconds from 1 to {LONGEST_SECONDS}")
    return seconds


def look(found: Sequence[Run], shown: Sequence[TolerantRun]) -> list[states.RunState]:
    """The states of runs, which ``shown`` has read then; what was left undone for the user's own is done first."""
    liveness.look_after(found)
    folded = states.fold(shown)
    for number, state in enumerate(folded):
        if state.refused and found[number].is_own and submitted_now(found[number]):
            folded[number] = states.fold([found[number]])[0]
    return folded


def as_json(found: Sequence[TolerantRun], folded: Sequence[states.RunState], single: bool, with_goodput: bool) -> Any:
    """One run with its events and account; several as a list; with their accounts also the total of these."""
    if not single and not with_goodput:
        return [s.as_dict() for s in folded]
    accounts = accounts_of(found, folded)
    shown = [{**s.as_dict(), "goodput": accounts[s.path].as_dict() if s.path in accounts else None} for s in folded]
    if single:
        with found[0].footprint.noting():
            return {**shown[0], "events": timeline.read(found[0])}
    return {"runs": shown, "total": goodput.total(list(accounts.values()))}


def accounts_of(shown: Sequence[TolerantRun], folded: Sequence[states.RunState]) -> dict[str, goodput.Account]:
    """Where the time of each run went, by its path; without those that cannot be read."""
    def account(pair: tuple[TolerantRun, states.RunState]) -> goodput.Account | None:
        run, state = pair
        with contextlib.suppress(UserError, OSError), run.footprint.noting():
            return None if state.state == "unreadable" else goodput.account(run, state.state == "running")
        return None

    accounts = fileserver.each(account, list(zip(shown, folded)))
    return {state.path: found for state, found in zip(folded, accounts) if found is not None}


def submitted_now(run: Run) -> bool:
    """Whether Slurm now accepts the evaluation that it refused before."""
    with contextlib.suppress(UserError, OSError):
        submissions.require_owner(run, "")
        chain.submit_refused(run)
    return chain.refusal(run) is None


def runs_of(words: Sequence[str], runs_dir: Path, named: bool) -> list[Run]:
    """The runs that are asked for; without words, all of them.

    Args:
        named: The directory is that of an option, so it is an error if it does not exist.
    """
    if words:
        return sweeps.expand(words, runs_dir)
    if named and not os.path.isdir(runs_dir):
        raise UserError(f"runs-dir: {runs_dir} is not a directory; use the --runs-dir of submit")
    return runs.list_runs(runs_dir)


def print_table(folded: Sequence[states.RunState]) -> None:
    """One line per run, or a few where the terminal is narrow."""
    layout.show(runs_table.lines(folded, layout.width(), layout.is_colored()))


def print_run(run: TolerantRun, s: states.RunState, full: bool) -> None:
    """State, reason and next step, scores and progress, then the timeline."""
    backend, room = choose.of(run), layout.width()
    say(first_line(s), room)
    if s.next:
        cli.say(f"next: {s.next}")  # whole, as it is typed
    for name, text in (("scores", runs_table.scores(s)), ("progress", progress(s))):
        if text:
            say(f"{name}: {text}", room)
    for account in accounts_of([run], [s]).values():
        if account.held:
            say(f"{goodput.summary(account)} of {goodput.held_text(account)}; --goodput shows the rest", room)
    print(f"folder: {folders.shortest(s.path)}")
    if run.report_file.exists():
        print(f"page: {folders.shortest(run.report_file)}")
    if s.jobs:
        ids = ", ".join(f"{link} {job_id or 'not recorded'}" for link, job_id in s.jobs.items())
        say(f"{backend.id_word}{'s' if len(s.jobs) > 1 else ''}: {ids}", room)
    rows = timeline.read(run)
    if full:
        print_events(timeline.without_repeats(rows), backend.id_word, room)
    else:
        lines = timeline.condensed(run, rows, backend.id_word, s.state == "running")
        for at, text in lines:
            say(text, room, f"  {moment(at)}  ")
    found = results.rows(run)
    table = results.table_of(found)
    if table:
        print(f"\n{found[0].work.key}\n{table}" if len(found) == 1 else f"\n{table}")
    if not full and rows:
        print("\n--full shows every event")


def say(text: str, room: int | None, begin: str = "") -> None:
    """Print a text, broken between words if need be; further lines are indented, or aligned below the first."""
    indent = " " * len(begin) or layout.INDENT
    first, *more = [text] if room is None else layout.wrapped(text, room - len(begin), "" if begin else indent)
    for line in (begin + first, *(indent + line if begin else line for line in more)):
        cli.say(line)


def first_line(s: states.RunState) -> str:
    """State and reason; that commits fail comes before everything else."""
    parts = s.reason.split("; warning: ")
    urgent = [part for part in parts[1:] if part.startswith("commits have failed")]
    usual = "; warning: ".join(part for part in parts if part not in urgent)
    return f"{s.run}: {s.state}: " + "; ".join([*(f"warning: {part}" for part in urgent), usual]) + s.expected


def progress(s: states.RunState) -> str:
    """How far the training is, and how long it will take."""
    if s.iteration is None:
        return ""
    loss = f", loss {s.loss:.3f}" if s.loss is not None else ""
    speed = f", {s.seconds_per_iteration:.2f} s/iteration" if s.seconds_per_iteration else ""
    left = s.seconds_left
    ends = f"; about {duration_text(left)} left" if left is not None else ""
    return f"iteration {runs_table.progress(s)}, epoch {s.epoch}{loss}{speed}{ends}"


def print_events(rows: Sequence[timeline.Row], word: str, room: int | None) -> None:
    """Every event."""
    several = len({row["work"] for row in rows}) > 2
    for row in rows:
        text = timeline.describe(row, word)
        if text:
            when = time.strftime("%m-%d %H:%M:%S", time.localtime(row["time"]))
            which = row["work"].split("-")[0] if several else "evaluate"
            label = "train" if row["work"] == "train" else which
            label += f" attempt {row['attempt']}" if row["attempt"] else ""
            if room is not None and room < 100:
                say(f"{label}: {text}", room, f"  {when}  ")
            else:
                say(text, room, f"  {when}  {label:<{24 if several else 20}} ")


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
