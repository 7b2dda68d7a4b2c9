"""Everything that needs a GPU, on a bare machine with a GPU, CUDA's compiler and PyTorch, and without a network.

    tools/gpu_check bundle      where there is a network: make build/gpu_check/bundle-cp312.tar.xz (64 MiB at most)
    tools/gpu_check all         on the machine with the GPU, with that file in the same place: the steps below

    unpack    the bundle, into an environment of its own in build/gpu_check; nothing else on the machine is touched
    build     mmcv-full's operators, for this machine's GPUs alone
    test      the GPU tests (as `make test-gpu`)
    bench     benchmarks/loss.py, checkpoint.py and training.py on the GPU
    report    gpu_check.md and the logs, into --out

ECM_CLUSTER_GPU_CHECK names another folder than build/gpu_check, ECM_CLUSTER_PYTHON the Python that has torch.

Several steps can be given. Each ends at its limit (10 minutes), a build continues in the next call, and `all` leaves
out what was done before. Exit code: 0 all done, 1 something failed, 2 it cannot be done here, 124 a limit was reached.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import bundle, checks, operators, report
from .basics import HOME, TIMED_OUT, StepError, recorded, say

STEPS = ("unpack", "build", "test", "bench", "report")
SHORTEST = 20.0  # seconds that a step is worth being started for


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="tools/gpu_check", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("steps", nargs="+", metavar="STEP", choices=("all", "bundle", *STEPS),
                      help=f"all, bundle, {', '.join(STEPS)}")
    made.add_argument("--limit", type=float, default=600, help="seconds for each step; 0: none (default: 600)")
    made.add_argument("--total", type=float, default=1800, help="seconds for all steps; 0: none (default: 1800)")
    made.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or HOME), metavar="DIR",
                      help="where the report goes (default: $OUT, or build/gpu_check)")
    made.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: try the steps without a GPU")
    made.add_argument("--again", action="store_true", help="with all: also what was done before")
    made.add_argument("--python", default="3.12", help="bundle: Python of the target (default: 3.12)")
    made.add_argument("--have", default=bundle.HAVE, help="bundle: what the target has, and need not be in it "
                      "(default: what comes with PyTorch)")
    made.add_argument("--pytest", default="", help="test: further arguments of pytest, in one word")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    end, code = time.monotonic() + args.total, 0
    steps = [s for given in args.steps for s in (STEPS if given == "all" else (given,))]
    for step in steps:
        if "all" in args.steps and not args.again and step != "report" and recorded(step).get("rc") == 0:
            say(f"{step}: done before")
            continue
        left = end - time.monotonic() if args.total else float("inf")
        if left < SHORTEST and step != "report":
            say(f"{step}: no time left; run `tools/gpu_check {step}`")
            code = code or TIMED_OUT
            continue
        limit = min(left, args.limit or float("inf"))
        try:
            done = do(step, args, 0.0 if limit == float("inf") else limit)
        except (StepError, OSError, subprocess.SubprocessError) as error:
            say(f"{step}: {error}")
            done = 2
        code = code or done
        if done and "all" in args.steps and step in ("unpack", "build"):
            say(f"{step} is not done: the next steps use any Python that has mmcv-full's operators")
    return code


def do(step: str, args: argparse.Namespace, limit: float) -> int:
    """One step; its exit code."""
    if step == "bundle":
        bundle.make(args.python, [name.strip() for name in args.have.split(",") if name.strip()])
    elif step == "unpack":
        bundle.unpack()
    elif step == "build":
        return operators.build(args.device, limit)
    elif step == "test":
        return checks.test(args.device, limit, shlex.split(args.pytest))
    elif step == "bench":
        return checks.bench(args.device, limit)
    else:
        say(f"report: {report.write(args.out.absolute())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
