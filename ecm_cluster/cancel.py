"""Cancel runs: the training and what waits behind it. They stay resumable, and nothing starts them again by itself."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import chain, checkpoints, cli, cluster, driver, evaluations, files, liveness, runs, submissions
from . import job as jobs
from .backends import queue
from .errors import UserError
from .job_states import ENDED, LIVE
from .reporting import state as states
from .run import Run

EPILOG = """examples:
  python -m ecm_cluster.cancel runs/mask_rcnn_r50_1x-001
  python -m ecm_cluster.cancel first second
"""
SETTLING = 90.0  # seconds for the ranks of a job to end; Slurm kills them KillWait (30 s by default) after scancel
COMMITTING = 180.0  # seconds for the ranks of a local run to commit and end


def parser() -> argparse.ArgumentParser:
    made = cli.Parser(prog="python -m ecm_cluster.cancel", description=__doc__, epilog=EPILOG)
    made.add_argument("run", nargs="+", metavar="RUN", help="a run directory, or the name of a run")
    made.add_argument("--runs-dir", default=None, help="folder that holds the runs (default: the site's, else runs)")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    runs_dir = Path(args.runs_dir or jobs.load(None, {}).runs_dir).expanduser().absolute()
    found = [runs.find(name, runs_dir) for name in args.run]
    for run in found:
        _ = run.spec  # a run that is none is an error before anything is cancelled
        submissions.require_owner(run, f"python -m ecm_cluster.cancel {shlex.quote(str(run.path))}")
    return max([cancel(run) for run in found])


def cancel(run: Run) -> int:
    """Cancel one run, and say what was done.

    Returns:
        0 if nothing of it runs or waits any more, 1 otherwise.
    """
    try:
        return _cancel_local(run) if run.spec.cluster == "local" else _cancel_on_slurm(run)
    except UserError as error:
        # one that cannot be cancelled must not save the others
        print(f"error: {run.name}: {' '.join(str(error).split())}", file=sys.stderr)
        return cli.EXIT_FAILED


def mark(run: Run) -> None:
    """Put the cancel mark into the run, before anything is ended: who sees the end must not start the run again."""
    run.mark_cancelled("cancel")
    files.kill_point("cancel-marked", run.cancel_file)


def _say_nothing_to_do(run: Run) -> int:
    state = states.fold([run])[0]
    print(f"{run.name}: nothing to cancel ({state.state}: {state.reason})")
    return cli.EXIT_OK


def _say_done(run: Run, what: str) -> None:
    run.ledger(run.newest_attempt(), "cancel").write("cancelled", what=what)
    print(f"{run.name}: cancelled {what}")
    committed = checkpoints.accepted(run)
    if run.completion() is None:
        print(f"  newest checkpoint: {committed[-1].file}" if committed else "  no checkpoint was committed yet")
    print(f"  to bring it back: {chain.resume_line(run)}")


# ---------------------------------------------------------------------------------------------- Slurm


def _cancel_on_slurm(run: Run) -> int:
    with submissions.run_lock(run):
        if not cluster.slurm_available():
            raise UserError("cluster: there is no Slurm on this machine (no scancel in PATH); cancel from a login node")
        live = liveness.on_slurm(run)
        if live is None:
            mark(run)
            raise UserError("cluster: Slurm does not answer; the run is marked, so that it will not start again, but "
                            "what runs goes on; cancel again when Slurm answers")
        if not live:
            return _say_nothing_to_do(run)
        mark(run)
        # the last of the chain first, so that none of it starts while the others end
        for job_id in reversed(live):
            cluster.cancel(job_id)
        back = _settle(run)
        stage_of = {job.job_id: job.stage for job in submissions.of_run(run)}
        _say_done(run, ", ".join(f"{stage_of[job_id]} {job_id}" for job_id in live))
    if back:
        print(f"{run.name}: job {', '.join(back)} could not be cancelled; it will end itself as soon as it starts",
              file=sys.stderr)
    return cli.EXIT_FAILED if back else cli.EXIT_OK


def _settle(run: Run) -> list[str]:
    """Wait until the ranks have ended, and cancel again what a requeue brought back at the same moment.

    Returns:
        Jobs that are still neither gone nor ending.
    """
    jobs = [job for job in submissions.of_run(run) if job.job_id]
    began, told = time.monotonic(), False
    while True:
        known = queue.query([job.job_id or "" for job in jobs]) or {}
        alive = [state for job in jobs if (state := known.get(job.job_id or ""))
                 and state.is_of(job.token, str(run.submitit_dir)) and state.kind != ENDED]
        ending = [state.job_id for state in alive if state.kind == LIVE and state.state != "RUNNING"]
        back = [state.job_id for state in alive if state.job_id not in ending]
        passed = time.monotonic() - began
        if not (back or ending) or passed > SETTLING:
            return back
        if passed > 2 and not told:
            print(f"{run.name}: waiting for the ranks to end", flush=True)
            told = True
        if passed > 1:
            for job_id in back:
                cluster.cancel(job_id)
        time.sleep(0.3)


# ---------------------------------------------------------------------------------------------- one machine


def _cancel_local(run: Run) -> int:
    with submissions.run_lock(run):
        pid = driver.find(run)
        if pid is None:
            return _say_nothing_to_do(run)
        mark(run)
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGTERM)
        print(f"{run.name}: the ranks commit and end", flush=True)
        end = time.monotonic() + COMMITTING
        while driver.alive(run, pid):
            if time.monotonic() > end:
                raise UserError(f"RUN: its driver {pid} is still there after {COMMITTING:.0f} s; see {run.local_log}")
            time.sleep(0.1)
        if run.completion() and evaluations.chain_done(run, chain.EVALUATE):
            return _say_nothing_to_do(run)  # it came to its end before the signal came to it
        _say_done(run, f"driver {pid}")
    return cli.EXIT_OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
