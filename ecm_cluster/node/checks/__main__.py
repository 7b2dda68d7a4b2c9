"""The process behind ``submit --check``: builds what a rank builds, from a run directory, and takes one step.

Run as ``python -m ecm_cluster.node.checks RUN FINDINGS``, where RUN is a run directory made for this check alone, and
FINDINGS a file that takes one JSON line for each finding (:mod:`ecm_cluster.checking.findings` reads them). Whoever
started this process ends it when it takes too long.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import resource
import signal
import sys
import traceback
from pathlib import Path

from ...checking.findings import ALONE_ENV, EVERYTHING, FRAMEWORK, Findings
from ...rundir.run import Run
from .. import signals, world

MEMORY_SHARE, MEMORY_MOST = 0.5, 12 << 30  # of the machine's free memory, and in bytes
THREADS = 2


def main(path: str, findings: str) -> int:
    """Check; the findings say the rest. 0 where nothing is wrong with what was looked at."""
    out = Findings(Path(findings))
    run = Run(path)
    alone = os.environ.get(ALONE_ENV)
    if alone:
        stay_modest(int(alone))
    missing = [name for name in FRAMEWORK if importlib.util.find_spec(name) is None]
    if missing:
        out.skip(EVERYTHING, f"{sys.executable} has no {', '.join(missing)}")
        return 0
    os.environ.update(world.export(_place()))
    # imported here: numpy and torch take their thread counts from the environment when they are imported
    from . import steps

    try:
        steps.all_of(run, _place(), out, on_cpu=bool(alone))
    except steps.Stop:
        return 1
    except Exception as error:  # a fault of the check itself must not keep anybody from submitting
        traceback.print_exc()
        out.skip("the rest", f"the check itself failed: {type(error).__name__}: {error}")
    return 0


def _place() -> world.RankInfo:
    return world.RankInfo(rank=0, world_size=1, local_rank=0, node=0, nodes=1, job_id="check", restart=0,
                          cluster="local")


def stay_modest(parent: int) -> None:
    """On a machine that others use: no GPU, few threads, low priority, bounded memory, and gone with the parent."""
    signals.die_with_parent()
    if os.getppid() != parent:
        os._exit(1)  # it died before this process could ask to die with it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the parent, which ends this process
    os.environ.update({"CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "disabled"})
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(THREADS)))
    with contextlib.suppress(OSError):
        os.nice(10)
    with contextlib.suppress(OSError, ValueError):
        found = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"))
        most = int(min(MEMORY_SHARE * int(found[1]) * 1024, MEMORY_MOST)) if found else MEMORY_MOST
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


if __name__ == "__main__":
    code = main(*sys.argv[1:3])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of torch's, or of a user's module, need not be waited for
