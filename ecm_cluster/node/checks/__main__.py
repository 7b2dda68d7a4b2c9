"""The process behind ``submit --check``: builds everything that a rank builds and trains for one step.

Run as ``python -m ecm_cluster.node.checks RUN FINDINGS``: RUN is a run directory created for this check, FINDINGS a
file to which findings are appended as JSON lines (read by :mod:`ecm_cluster.checking.findings`). The parent process
enforces the time limit.
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

MEMORY_SHARE, MEMORY_MOST = 0.5, 12 << 30  # limits on a shared login node: of its free memory, and in bytes
THREADS = 2  # on a login node, whose cores others use, too


def main(path: str, findings: str) -> int:
    """Run the check; returns 0 if it found no error."""
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
    # imported here: numpy and torch read their thread counts from the environment when they are imported
    from . import steps

    try:
        steps.all_of(run, _place(), out, on_cpu=bool(alone))
    except steps.Stop:
        return 1
    except Exception as error:  # a bug in the check must not prevent a submission
        traceback.print_exc()
        out.skip("the rest", f"the check itself failed: {type(error).__name__}: {error}")
    return 0


def _place() -> world.RankInfo:
    return world.RankInfo(rank=0, world_size=1, local_rank=0, node=0, nodes=1, job_id="check", restart=0,
                          cluster="local")


def stay_modest(parent: int) -> None:
    """On a shared machine: no GPU, few threads, low priority, bounded memory, and killed with the parent."""
    signals.die_with_parent()
    if os.getppid() != parent:
        os._exit(1)  # the parent died before die_with_parent took effect
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, too, which kills this process
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
    os._exit(code)  # without waiting for threads of torch or of the user's modules
