"""Cancel runs: the training and its evaluations. They stay resumable, and are never restarted automatically."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence

from . import sweeps
from .backends import choose
from .base import files
from .base.errors import UserError
from .chain import chain, locks, submissions
from .console import cli, program
from .job.flags import add_runs_dir, runs_dir_of
from .notices import entries
from .reporting import state as states
from .rundir import checkpoints
from .rundir.run import Run
from .sweeps.group import group_of

EPILOG = """examples:
  python -m ecm_cluster.cancel runs/mask_rcnn_r50_1x-001
  python -m ecm_cluster.cancel first second 'exp-*'
"""


def parser() -> argparse.ArgumentParser:
    made = cli.Parser(prog="python -m ecm_cluster.cancel", description=__doc__, epilog=EPILOG)
    made.add_argument("run", nargs="+", metavar="RUN", help="a run directory, the name of a run or of a group of runs, "
                      "or a pattern such as 'exp-*'")
    add_runs_dir(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    runs_dir = runs_dir_of(args.runs_dir)
    found = sweeps.expand(args.run, runs_dir)
    for run in found:
        _ = run.spec  # validate all of them before anything is cancelled
        run.require_own("cancel")
        submissions.require_owner(run, f"python -m ecm_cluster.cancel {shlex.quote(str(run.path))}")
    cli.acts()
    for run in found:
        if group_of(run) and not run.submissions():
            mark(run)  # a `submit` that is still at work on the group must not submit it
    # a run of a group may wait for the one before it: the last first, so that none of them starts meanwhile
    code = max([cancel(run) for run in (found[::-1] if any(map(group_of, found)) else found)])
    entries.look(*(run.path.parent for run in found), changed=True)
    return code


def cancel(run: Run) -> int:
    """Cancel one run and report what was done.

    Returns:
        0 if none of its jobs runs or waits any longer, 1 otherwise.
    """
    try:
        return _cancel(run)
    except UserError as error:
        # a failure must not keep the other runs from being cancelled
        cli.say(f"error: {run.name}: {program.one_line(error)}", sys.stderr)
        return cli.EXIT_FAILED


def mark(run: Run) -> None:
    """Write the cancel mark before any job is ended: a process that sees the end must not restart the run."""
    run.mark_cancelled("cancel")
    files.kill_point("cancel-marked", run.cancel_file)


def _report_nothing_to_do(run: Run) -> int:
    state = states.fold([run])[0]
    print(f"{run.name}: nothing to cancel ({state.state}: {state.reason})")
    return cli.EXIT_OK


def _report(run: Run, what: str) -> None:
    run.ledger(run.newest_attempt(), "cancel").write("cancelled", what=what)
    print(f"{run.name}: cancelled {what}")
    committed = checkpoints.accepted(run)
    if run.completion() is None:
        print(f"  newest checkpoint: {committed[-1].file}" if committed else "  no checkpoint was committed yet")
    cli.say(f"  to resume it: {chain.resume_line(run)}")


def _cancel(run: Run) -> int:
    backend = choose.of(run)
    if not os.access(run.path, os.W_OK, effective_ids=True) and backend.alive(run) == {}:
        return _report_nothing_to_do(run)  # this needs no lock
    with locks.run_lock(run):
        backend.require("cancel from a login node")
        live = backend.alive(run)
        if live is None:
            mark(run)
            raise UserError("cluster: Slurm does not answer; the run is marked as cancelled and will not restart, but "
                            "its jobs keep running; cancel it again when Slurm answers")
        if not live:
            return _report_nothing_to_do(run)
        mark(run)
        back = backend.end(run, live)
        if back is None:
            return _report_nothing_to_do(run)
        _report(run, ", ".join(backend.called(run, list(live))))
    if back:
        print(f"{run.name}: job {', '.join(back)} could not be cancelled; it will exit as soon as it starts",
              file=sys.stderr)
    return cli.EXIT_FAILED if back else cli.EXIT_OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
