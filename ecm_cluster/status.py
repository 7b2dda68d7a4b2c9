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
from .backends import choose
from .base import folders
from .base.errors import UserError
from .chain import chain, submissions, successor
from .console import cli, layout
from .job import job as jobs
from .reporting import results, runs_table, timeline
from .reporting import state as states
from .reporting.tables import finite
from .reporting.tolerant import TolerantRun
from .rundir import runs
from .rundir.run import Run
from .slurm import commands
from .sweeps import table as group_table

EPILOG = """examples:
  python -m ecm_cluster.status
  python -m ecm_cluster.status runs/mask_rcnn_r50_1x-001
  python -m ecm_cluster.status first second 'exp-*'
  python -m ecm_cluster.status --json | jq '.[] | {run, state, iteration}'
"""


def parser() -> argparse.ArgumentParser:
    made = cli.Parser(prog="python -m ecm_cluster.status", description=__doc__, epilog=EPILOG)
    made.add_argument("run", nargs="*", metavar="RUN", help="run directories, names of runs or of groups of runs, or "
                      "patterns of names such as 'exp-*'; one name shows that run's timeline (default: all runs)")
    made.add_argument("--runs-dir", default=None, help="directory that holds the runs (default: the site's, else runs)")
    made.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    runs_dir = folders.absolute(args.runs_dir or jobs.load(None, {}).runs_dir)
    group = sweeps.find(args.run[0], runs_dir) if len(args.run) == 1 else None
    found = group.runs() if group else runs_of(args.run, runs_dir, named=bool(args.runs_dir))
    single = group is None and len(args.run) == 1 and not runs.is_pattern(args.run[0], runs_dir)
    if single:
        _ = found[0].spec  # if only one run is shown, it is an error if it cannot be read
    own = [run for run in found if run.is_own]  # nothing acts on what another user's run names
    if commands.slurm_available():
        for run in own:
            with contextlib.suppress(UserError, OSError):  # a run that cannot be read has nothing to adopt or release
                if choose.of(run).queues:
                    submissions.try_adopt(run)  # jobs whose submitter died before it recorded their IDs
                successor.release_due(run)  # evaluations that no node could release
    folded = states.fold(found)
    for number, state in enumerate(folded):
        if state.refused and found[number] in own and submitted_now(found[number]):
            folded[number] = states.fold([found[number]])[0]
    if group is not None and args.json:
        print(json.dumps(finite(group_table.as_dict(group, folded)), indent=1))
    elif group is not None:
        layout.show(group_table.lines(group, folded, layout.width(), layout.is_colored()))
    elif args.json:
        values: Any = [{**s.as_dict(), **({"events": timeline.read(TolerantRun(r.path))} if single else {})}
                       for r, s in zip(found, folded)]
        print(json.dumps(finite(values[0] if single else values), indent=1))
    elif single:
        print_timeline(TolerantRun(found[0].path), folded[0])
    elif folded:
        print_table(folded)
    else:
        cli.say(f"no runs in {runs_dir}; `python -m ecm_cluster.submit` submits one")
    return cli.EXIT_OK


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


def print_timeline(run: Run, s: states.RunState) -> None:
    """State, reason and next step, then the timeline."""
    word = choose.of(run).id_word
    cli.say(f"{s.run}: {s.state}: {s.reason}")
    if s.next:
        cli.say(f"next: {s.next}")
    print(f"folder: {folders.shortest(s.path)}")
    if s.jobs:
        ids = ", ".join(f"{link} {job_id or 'not recorded'}" for link, job_id in s.jobs.items())
        print(f"{word}{'s' if len(s.jobs) > 1 else ''}: {ids}")
    if s.iteration is not None:
        speed = f", {s.seconds_per_iteration:.2f} s/iteration" if s.seconds_per_iteration else ""
        loss = f", loss {s.loss:.3f}" if s.loss is not None else ""
        print(f"progress: iteration {runs_table.progress(s)}, epoch {s.epoch}{loss}{speed}")
    rows = timeline.without_repeats(timeline.read(run))
    several = len({row["work"] for row in rows}) > 2
    for row in rows:
        text = timeline.describe(row, word)
        if text:
            when = time.strftime("%m-%d %H:%M:%S", time.localtime(row["time"]))
            which = row["work"].split("-")[0] if several else "evaluate"
            label = "train" if row["work"] == "train" else which
            label += f" attempt {row['attempt']}" if row["attempt"] else ""
            print(f"  {when}  {label:<{24 if several else 20}} {text}")
    found = results.rows(run)
    table = results.table_of(found)
    if table:
        print(f"\n{found[0].work.key}\n{table}" if len(found) == 1 else f"\n{table}")


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
