"""Kill points: named places in the code where a test can kill or freeze the process.

``ECM_CLUSTER_KILL_AT=<name>`` or ``<name>:<part of the path>`` makes every process that inherits the variable send
itself SIGKILL each time it reaches that place, as a power cut or the out-of-memory killer would.
``ECM_CLUSTER_STOP_AT`` has the same syntax and sends SIGSTOP, which looks like a process on a node that Slurm lost.

With ``@<file>`` the point is read from the file, which is renamed to ``<file>.taken`` when it is reached. So only one
process dies, once, and a test can write the next point to the same file while all others keep running.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

KILL_ENV = "ECM_CLUSTER_KILL_AT"
STOP_ENV = "ECM_CLUSTER_STOP_AT"
TAKEN = ".taken"


def kill_point(name: str, path: str | os.PathLike = "") -> None:
    """Kill or stop this process if a test asked for it here; otherwise do nothing."""
    for variable, number in ((STOP_ENV, signal.SIGSTOP), (KILL_ENV, signal.SIGKILL)):
        wanted = os.environ.get(variable)
        if wanted and _matches(wanted, name, str(path)):
            os.kill(os.getpid(), number)


def _matches(wanted: str, name: str, path: str) -> bool:
    if wanted.startswith("@"):
        order = Path(wanted[1:])
        try:
            # if several processes get here at once, only the one whose rename succeeds
            return _matches(order.read_text(encoding="utf-8"), name, path) and bool(order.rename(f"{order}{TAKEN}"))
        except OSError:
            return False
    point, _, part = wanted.partition(":")
    return point == name and part in path
