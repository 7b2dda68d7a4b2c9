"""What ``status`` shows of a run that is done, kept in its directory: reading that answers for all of its records.

It holds for as long as nothing has changed. What the state was made from is noted as it is read: each file and
directory with the time of its last change, its size and its inode. So a record that is added, replaced, appended to,
damaged or deleted, by any process of any version, makes the summary void. Only the owner's ``status`` writes
it, once a run has not changed for a while: a second change at the same tick of the file server's clock would go
unnoticed.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import fields
from typing import Any

from ..base import files, fileserver
from ..base.reading import Maybe, Unreadable, check, parse_json, read_json
from ..base.version import __version__
from ..rundir.records import COUNT
from .run_state import RunState
from .tolerant import TolerantRun

FORMAT = 1  # raised when the same records are shown differently
SETTLED = 30.0  # seconds without a change
LARGEST = 1 << 18  # bytes
HERE = ("run", "path")  # of the directory as it is found: a run may be moved
SHAPES: dict[Any, Any] = {
    "str": str, "bool": bool, "int": COUNT, "str | None": Maybe(str), "int | None": Maybe(COUNT),
    "float | None": Maybe(float), "dict[str, str | None]": {str: Maybe(str)}, "dict[str, Any]": dict}
STATE = {f.name: SHAPES.get(f.type) for f in fields(RunState) if f.name not in HERE}
BY = f"{__version__} {FORMAT} {' '.join(STATE)}"
TEXTS = ("metrics_file",)  # of `evaluation`; its other values are figures


class _Unsettled(OSError):
    """By the file server's clock the run has changed just now."""


def read(run: TolerantRun) -> RunState | None:
    """The state of a run that is done; None if there is none, or anything has changed since."""
    try:
        record = read_json(run.summary_file, {"by": str, "stamps": dict, "state": dict}, LARGEST)
        if record["by"] == BY and all(_is_unchanged(run, *stamp) for stamp in record["stamps"].items()):
            return _state(run, record["state"])
    except (OSError, Unreadable, ValueError):
        pass
    return None


def _is_unchanged(run: TolerantRun, name: str, then: Any) -> bool:
    if name.startswith("/") or ".." in name:
        return False
    try:
        return [*fileserver.stamp(os.stat(f"{run.path}/{name}"))] == then
    except (FileNotFoundError, NotADirectoryError):
        return then is None


def _state(run: TolerantRun, values: dict[str, Any]) -> RunState:
    """A state from a file that may be another user's.

    Raises:
        Unreadable: It is not of the right shape.
    """
    check(values, STATE, run.summary_file)
    figures = {name: value for name, value in values["evaluation"].items() if name not in TEXTS}
    check(figures, {str: Maybe(float)}, run.summary_file, "evaluation")
    check([values["evaluation"].get(name, "") for name in TEXTS], [str], run.summary_file)
    return RunState(run.name, str(run.path), **{name: values[name] for name in STATE})


def write(run: TolerantRun, state: RunState) -> None:
    """Keep the state that was just made of a run's records, if it is done and may be kept; nothing that fails matters.

    Nothing is left to do for it either: no job whose id is looked for, no damage to report.
    """
    jobs = [job for link in state.jobs for job in run.submissions_of(link)]
    if state.state != "done" or run.damage or any(job.job_id is None and not job.refused for job in jobs):
        return
    prefix, stamps = f"{run.path}/", run.footprint.stamps
    newest = max(stamp[0] for stamp in stamps.values() if stamp) / 1e9
    values = {name: getattr(state, name) for name in STATE}
    text = json.dumps({"by": BY, "state": values, "stamps": {path[len(prefix):]: s for path, s in stamps.items()}})
    if abs(time.time() - newest) < SETTLED or not all(path.startswith(prefix) for path in stamps):
        return
    with contextlib.suppress(OSError, Unreadable):
        if _state(run, parse_json(text, run.summary_file)["state"]) == state:
            with files.replacing(run.summary_file, durable=False) as handle:
                if os.fstat(handle.fileno()).st_ctime - newest < SETTLED:  # by the file server's clock, as the others
                    raise _Unsettled
                handle.write(text.encode())
