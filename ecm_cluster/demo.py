"""Run the complete workflow on this machine: data, staging, training with a preemption, evaluation, report."""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from . import submit
from .backends import driver, liveness
from .base import folders
from .base.errors import UserError
from .console import cli
from .reporting.state import RunState
from .rundir.run import Run
from .watching import follow

EPILOG = """examples:
  python -m ecm_cluster.demo
  python -m ecm_cluster.demo --out /tmp/demo --no-preemption
"""
PAGE_SECONDS = 60.0  # that analysis and page may take on a busy machine
# measured on 2 cores: a detector of the demo's size learns these to a box AP50 of 0.77 in 300 iterations of 0.4 s
TRAIN_IMAGES, VAL_IMAGES, CLASSES, SEED = 600, 100, 24, 0


def parser() -> argparse.ArgumentParser:
    made = cli.Parser(prog="python -m ecm_cluster.demo", description=__doc__, epilog=EPILOG)
    made.add_argument("--out", default="demo-run", help="directory for the dataset and the runs (default: demo-run)")
    made.add_argument("--no-preemption", action="store_true", help="run the training without a preemption")
    made.add_argument("--set", dest="options", action="append", default=[], metavar="KEY=VALUE",
                      help="mmdet option, as for submit")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    cli.acts()
    began = time.monotonic()
    out = _checked(folders.absolute(args.out))
    say("1. a synthetic dataset in the LVIS format")
    from . import synthesize
    from .plan import create

    code = synthesize.main([str(out / "data"), "--train-images", str(TRAIN_IMAGES), "--val-images", str(VAL_IMAGES),
                            "--classes", str(CLASSES), "--seed", str(SEED)])
    if code:
        return code
    from . import stage

    say("2. packing it, as on shared storage, for fast copies to the scratch of a node")
    data = out / "data.pack"
    code = stage.main(["pack", str(out / "data"), str(data)])
    if code:
        return code
    say("3. submitting ECM Mask R-CNN with two ranks on the CPU of this machine")
    runs_dir = out / "runs"
    name = create.next_name(runs_dir, "demo")
    options = [part for text in args.options for part in ("--set", text)]
    code = submit.main(["demo", "--cluster", "local", "--runs-dir", str(runs_dir), "--name", name, "--data-root",
                        str(data), "--scratch", str(out / "scratch"), *options])
    if code:
        return code
    run = Run(runs_dir / name)
    preemption = None if args.no_preemption else DemoPreemption(run)
    say("4. training" + ("" if args.no_preemption else ", with a preemption"))
    code = follow.follow(run, look=preemption)
    wait_for_the_page(run)
    say(f"5. timeline ({time.monotonic() - began:.0f} s in total)")
    from . import status

    status.main([str(run.path)])
    return code


def wait_for_the_page(run: Run) -> None:
    """Wait for what is done after the end of a run, which is scored by then."""
    end = time.monotonic() + PAGE_SECONDS
    while liveness.alive(run) and time.monotonic() < end:
        time.sleep(0.2)


def _checked(out: Path) -> Path:
    if out.exists() and not out.is_dir():
        raise UserError(f"out: {out} is not a directory; use another --out")
    if out.is_dir() and out.stat().st_uid != os.geteuid():  # who could replace the code while it runs
        raise UserError(f"out: {out} belongs to another user; use another --out")
    return out


class DemoPreemption:
    """Signals one rank in the middle of the training, once, as Slurm would."""

    def __init__(self, run: Run) -> None:
        self.run, self.sent = run, False

    def __call__(self, state: RunState) -> None:
        if self.sent or not state.iterations or (state.iteration or 0) < 0.4 * state.iterations:
            return
        starts = [e for e in self.run.events() if e.kind == "start" and e.attempt == state.attempt]
        if state.state == "running" and starts:
            self.sent = True
            say(f"-- preemption: SIGUSR2 to rank {starts[0]['rank']}, iteration {state.iteration}")
            if driver.is_own(self.run, str(starts[0]["pid"])):
                os.kill(starts[0]["pid"], signal.SIGUSR2)


def say(text: str) -> None:
    print(f"\n{text}", flush=True)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
