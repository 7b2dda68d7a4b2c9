"""Brings the trackers of a run up to date once: ``python -m ecm_cluster.trackers.sync RUN``.

Started where a training or an evaluation has ended. Several evaluations may end at once: each process that has held
the lock of a tracker looks again after it has released it, so what another one has
written before it gave up waiting is not left out.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

from ..base import files
from ..base.errors import brief
from ..rundir.run import Run
from .feeding import Feed, asked

LOCK_SECONDS = 5.0  # the job still has its nodes


def bring_up_to_date(run: Run, name: str, options: dict[str, Any], warn: Callable[[str], None]) -> None:
    """Have everything that there is in one tracker; an error becomes a warning."""
    feed = Feed(run, name, options, warn)
    try:
        while not feed.is_complete():
            with files.locked(run.tracker_lock(name), patience=LOCK_SECONDS):
                feed.update()
                feed.close()
            has, feed = feed.has, Feed(run, name, options, warn)
            if feed.wanted() == has or not has:
                return
    except BlockingIOError:
        return
    except Exception as error:
        warn(reason(error))


def reason(error: Exception) -> str:
    """A tracker's error in one line."""
    return f"{type(error).__name__}: {brief(str(error), 300)}"


def missing(name: str) -> str:
    """That the package of a tracker is not installed; empty if it is."""
    if importlib.util.find_spec(name) is not None:
        return ""
    return f"it is not installed for {sys.executable}; pip install 'ecm-cluster[trackers]' there"


def main(run_path: str) -> int:
    run = Run(run_path)
    if not run.is_own:
        return 0
    for name, options in asked(run).items():
        said: list[str] = [missing(name)] if missing(name) else []
        if not said:
            run.trackers_dir.mkdir(exist_ok=True)
            files.private_file(run.tracker_lock(name))
            bring_up_to_date(run, name, options, said.append)
        if said:
            ledger = run.ledger(run.newest_attempt(), f"tracker-{name}-{socket.gethostname()}-{os.getpid()}", True)
            for text in said:
                print(f"warning: {name}: {text}", flush=True)
                ledger.write("warning", about=f"tracker {name}", text=f"{name}: {text}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
