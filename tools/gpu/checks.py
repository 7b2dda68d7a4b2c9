"""The GPU tests and the benchmarks, run with the first Python here that can."""

from __future__ import annotations

import time
from collections.abc import Sequence

from . import interpreter
from .basics import ROOT, TIMED_OUT, run, say

# programs in benchmarks/, with what they are given on a GPU: the full set-up, which a CPU would need hours for
BENCHMARKS = {
    "loss": "",
    "checkpoint": "",
    "training": "--ranks 1 --config configs/ecm/mask_rcnn_r50_1x.py --classes 1203 --image-size 1333 --size 1333x800 "
                "--train-images 200",
}


def test(device: str, limit: float, arguments: Sequence[str] = ()) -> int:
    """Run the suite in tests/gpu; pytest's exit code, or 124 at the limit.

    Args:
        arguments: For pytest, after its own.
    """
    python, found = interpreter.find(device)
    gpus = ", ".join(gpu["name"] for gpu in found["gpus"]) or "none"
    say(f"testing with {python}: Python {found['python']}, torch {found['torch']}, GPUs: {gpus}")
    command = [python, "-m", "pytest", "-m", "gpu", "-v", "--disable-warnings", "-p", "no:cacheprovider", "tests/gpu"]
    return run("test", [*command, *arguments], limit, {"ECM_CLUSTER_GPU_TESTS_DEVICE": device}, python=python)


def bench(device: str, limit: float) -> int:
    """Run each benchmark; 0 when all have worked."""
    python, _ = interpreter.find(device)
    end, failed = time.monotonic() + limit, False
    for name, full in BENCHMARKS.items():
        program = ROOT / "benchmarks" / f"{name}.py"
        left = end - time.monotonic() if limit else 0.0
        if not program.exists() or (limit and left < 1):
            say(f"{name}: {'no time left' if program.exists() else f'{program} does not exist'}")
            failed = True
            continue
        say(f"benchmark {name}")
        arguments = full.split() if device == "cuda" else []
        code = run(f"bench-{name}", [python, program, "--device", device, *arguments], left)
        failed |= code != 0
        if code == TIMED_OUT:
            say(f"{name}: ended at the step's limit")
    return int(failed)
