"""The process that sends what is due about runs, given as paths of them or of directories with entries of them.

Each message is sent once to each URL. Its file in the run is created exclusively before it is sent, and says then what
became of it. One that has not arrived is sent again by a later verb, with growing pauses; one that may have arrived is
not. What is not sent in the end is a warning in ``status``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..base import files
from ..base.errors import UserError
from ..base.reading import Unreadable
from ..job.notify_options import scheme
from ..reporting import state as states
from ..reporting.run_state import ENDED, PATIENCE
from ..rundir import job_env, records
from ..rundir.run import Run
from . import due, entries, urls

WAIT_SECONDS = 120.0  # that the caller of --wait, a process of the run, may take to end
MOST_SECONDS = 600.0  # for everything; then a message that is being sent counts as one that may have arrived
PAUSES = (0.0, 60.0, 300.0, 1800.0, 7200.0, 21600.0, 86400.0)  # seconds before each further try
STUCK_SECONDS = MOST_SECONDS + 60.0  # after which nobody is sending a message that is recorded as being sent


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    wait = "--wait" in words
    given = [Run(word) for word in words if word != "--wait"]
    runs = [found for run in given for found in ([run] if run.run_file.exists() else entries.runs(run.path))]
    signal.alarm(int(MOST_SECONDS))
    own = [run for run in runs if run.is_own]
    for run in runs:
        if run not in own and not os.path.lexists(run.path):
            entries.remove(run)  # it was deleted or renamed
    for run, state in confirmed(own, WAIT_SECONDS if wait else 0.0):
        with contextlib.suppress(UserError, OSError):  # one run must not hold up the others
            send_due(run, state)
    return 0


def confirmed(runs: Sequence[Run], patience: float) -> list[tuple[Run, states.RunState]]:
    """The states of runs; of those that seem to have ended, only if they still do some seconds later.

    Args:
        patience: Seconds to wait for all of them to end.
    """
    end, folded = time.monotonic() + patience, states.fold(runs)
    while time.monotonic() < end and any(state.state not in ENDED for state in folded):
        time.sleep(1.0)
        folded = states.fold(runs)
    if any(state.state in ENDED and state.state != "done" for state in folded):
        time.sleep(PATIENCE)
        before, folded = folded, states.fold(runs)
        return [(run, new) for run, old, new in zip(runs, before, folded)
                if new.state not in ENDED or new.state == old.state or new.state == "done"]
    return list(zip(runs, folded))


def send_due(run: Run, state: states.RunState) -> None:
    """Send what is due about one run; nothing if another process does."""
    if not run.notify_file.exists() or state.state == "unreadable":
        entries.remove(run)
        return
    run.notices_dir.mkdir(mode=0o700, exist_ok=True)
    files.private_file(run.notices_lock)
    where = job_env.urls(run)
    with contextlib.suppress(BlockingIOError), files.locked(run.notices_lock, patience=0.0):
        left = [_send(run, notice, number, url) for notice in due.find(run, state)
                for number, url in enumerate(where, 1)]
        waiting = [text for text in left if text]
        if waiting:
            entries.note(run, waiting[-1])
        elif state.state in ENDED:
            entries.remove(run)
        elif run.notices_due.exists():
            entries.note(run, "")


def _send(run: Run, notice: due.Notice, number: int, url: str) -> str:
    """Send one message to one URL unless that is settled; what a verb has to warn of, if it has to be sent again."""
    path, to = run.notice_file(notice.name, number), f"URL {number} ({scheme(url)})"
    record = _read(path)
    tries = record["tries"] if record else 0
    what = f"the message {notice.event!r} to {to}"
    if record and record["state"] == "sending":
        if abs(time.time() - record["time"]) < STUCK_SECONDS:
            return ""  # on a file system without locks: by another process
        return _settle(run, path, urls.Outcome("unknown", "the process that sent it died"), tries, what)
    if record and record["state"] != "failed":
        return ""
    again = f"{what} is not sent yet: {record.get('why') if record else ''}; tried again by a later command"
    if record and time.time() - record["time"] < PAUSES[min(tries, len(PAUSES) - 1)]:
        return again
    begun = {"state": "sending", "tries": tries + 1, "time": round(time.time(), 3)}
    if record is None and not files.create_exclusive(path, json.dumps(begun) + "\n"):
        return ""
    if record is not None:
        files.write_json(path, begun)
    files.kill_point("notice-begun", path)
    return _settle(run, path, urls.send(url, notice.title, notice.body), tries + 1, what)


def _settle(run: Run, path: Path, outcome: urls.Outcome, tries: int, what: str) -> str:
    """Record what became of a message."""
    state = "given up" if outcome.state == "failed" and tries >= len(PAUSES) else outcome.state
    files.write_json(path, {"state": state, "tries": tries, "time": round(time.time(), 3), "why": outcome.why})
    line = f"{what}: {state}{f' ({outcome.why})' if outcome.why else ''}"
    with contextlib.suppress(OSError), open(run.notices_log, "a", encoding="utf-8", errors="replace") as log:
        log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
    if state in ("unknown", "given up"):
        words = "may not have arrived" if state == "unknown" else "was not sent"
        run.ledger(run.newest_attempt(), "notices").write("warning", about=f"notify {path.stem}",
                                                          text=f"{what} {words}: {outcome.why}")
    return f"{what} is not sent yet: {outcome.why}; tried again by a later command" if state == "failed" else ""


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return records.read(path, records.NOTICE)
    except FileNotFoundError:
        return None
    except Unreadable:
        return {"state": "unknown", "tries": 0, "time": 0.0}  # it may have been sent


if __name__ == "__main__":
    raise SystemExit(main())
