"""What is done once a piece of work has ended for good, such as making the run's page.

Each is a process of its own with a time limit, so it can neither fail nor hold up what has ended. Where the work has
succeeded rank 0's supervisor starts them, as its environment is that of the training, also in a container; where it
has not, the batch shell or the local driver does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

from ...base import processes
from ...rundir.run import Run
from .. import signals

# names in `processes`, in order; each gets the path of the run
PROCESSES: tuple[str, ...] = ("tracker sync", "analysis", "page")
SECONDS = 60.0  # for each: the job still has its nodes
LONGER = {"analysis": 300.0}  # of LVIS's validation set half a minute, on a busy node several times that
WITHOUT_GPU = {"CUDA_VISIBLE_DEVICES": ""}


def carry_out(run: Run) -> None:
    """Run every process to its end, or to its time limit; what they print goes to ``logs/afterwards.log``."""
    for name in PROCESSES:
        with contextlib.suppress(OSError, subprocess.SubprocessError):  # a full disk takes no log, and no process
            _run(run, name)


def _run(run: Run, name: str) -> None:
    with open(run.afterwards_log, "ab", buffering=0) as log:
        log.write(f"---- {time.strftime('%Y-%m-%d %H:%M:%S')} {name}\n".encode())
        process = subprocess.Popen(processes.command(sys.executable, name, run.path), stdin=subprocess.DEVNULL,
                                   stdout=log, stderr=log, env={"PYTHONUTF8": "1", **os.environ, **WITHOUT_GPU},
                                   start_new_session=True, preexec_fn=signals.die_with_parent)
        limit = LONGER.get(name, SECONDS)
        end = time.monotonic() + limit
        while time.monotonic() < end and not signals.asked_to_stop():
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(0.5)
                if code:
                    log.write(f"{name}: ended with code {code}\n".encode())
                return
        os.killpg(process.pid, signal.SIGKILL)  # what it has started, too
        with contextlib.suppress(subprocess.TimeoutExpired):  # it may wait in the kernel, for storage
            process.wait(1.0)
        log.write(f"{name}: killed, as it took more than {limit:.0f} s or the job was ending\n".encode())
