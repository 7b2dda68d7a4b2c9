"""The runs about which messages may become due, and the process that verbs start to send them.

A verb must not wait for a mail server, and a user with a thousand runs must not wait for a look at each. So a run whose
job has ``notify`` has an entry in one directory beside it until everything about it is sent; a verb lists that
directory, and only if there are entries, starts a process that does the rest.
"""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

from ..base import files, processes
from ..console.output import printable
from ..rundir import paths
from ..rundir.run import Run

PROCESS = "notices"
INTERVAL = 30.0  # seconds between two looks, unless something has changed: `status` may be called in a loop
LOOKED = ".looked"


def add(run: Run) -> None:
    """Messages about this run may become due."""
    if not run.notify_file.exists():
        return
    with contextlib.suppress(OSError):
        run.notices_due.parent.mkdir(mode=0o700, exist_ok=True)
        run.notices_due.touch(0o600)


def remove(run: Run) -> None:
    """Everything about this run is sent; ``add`` it again if it is resumed."""
    with contextlib.suppress(OSError):
        run.notices_due.unlink()


def note(run: Run, text: str) -> None:
    """What the next verb warns of."""
    with contextlib.suppress(OSError):
        files.write_text(run.notices_due, text)


def runs(runs_dir: Path) -> list[Run]:
    """The runs that have an entry; empty if the directory is not the caller's."""
    folder = paths.notices_due_dir(runs_dir)
    try:
        there = os.lstat(folder)
        if not stat.S_ISDIR(there.st_mode) or there.st_uid != os.geteuid():
            return []
        return [Run(runs_dir / name) for name in sorted(os.listdir(folder)) if not name.startswith(".")]
    except OSError:
        return []


def look(*runs_dirs: Path, changed: bool = False) -> None:
    """Send what is due about the caller's runs in these directories, in the background; warn of what could not be sent.

    Args:
        changed: This verb has changed a run, so look again however short ago the last one was.
    """
    for runs_dir in dict.fromkeys(runs_dirs):
        found = runs(runs_dir)
        for run in found:
            _warn(run)
        if found and (changed or _is_time(runs_dir)):
            start(runs_dir)


def _warn(run: Run) -> None:
    with contextlib.suppress(OSError):
        if text := run.notices_due.read_text(encoding="utf-8", errors="replace")[:500]:
            print(f"warning: {printable(run.name)}: {printable(text)}", file=sys.stderr)


def _is_time(runs_dir: Path) -> bool:
    mark = paths.notices_due_dir(runs_dir) / LOOKED
    with contextlib.suppress(OSError):
        if abs(time.time() - mark.stat().st_mtime) < INTERVAL:
            return False
    with contextlib.suppress(OSError):
        mark.touch(0o600)
        os.utime(mark, (time.time(), time.time()))
    return True


def start(runs_dir: Path) -> None:
    """Start the process that sends what is due; it outlives the caller and prints nothing."""
    path = os.pathsep.join([str(processes.SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
    with contextlib.suppress(OSError):
        subprocess.Popen(processes.command(sys.executable, PROCESS, runs_dir),
                         env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL, start_new_session=True, cwd="/")
