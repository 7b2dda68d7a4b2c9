"""The logged losses of all attempts as one series, as if the training had never stopped.

Each attempt has its own JSON log. Its first line records the iteration after which it started; what earlier attempts
logged beyond that was repeated and does not count.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from operator import itemgetter
from typing import Any, TypeVar

from ..base.reading import Unreadable, check, parse_json, read_bytes
from . import records
from .run import Run

Line = TypeVar("Line")
LARGEST = 1 << 30  # bytes of the log of one attempt: enough for a line per iteration of a long training


def fold(run: Run) -> list[dict[str, Any]]:
    """The log lines that count, by iteration, without duplicates and gaps.

    Returns:
        mmcv's fields of each line (``loss``, ``lr``, …), with ``iteration``, the number of optimizer steps since the
        start of the training, and ``attempt``, which logged it.
    """
    return folded(run, partial(read, run), itemgetter("iteration"))


def folded(run: Run, log_of: Callable[[int], tuple[Any, list[Line]]],
           iteration_of: Callable[[Line], int]) -> list[Line]:
    """The lines that count, of any kind.

    Args:
        log_of: The header of an attempt's log, and its lines, as :func:`read` gives them.
    """
    series: list[Line] = []
    for attempt in run.attempts():
        header, lines = log_of(attempt)
        if header is not None:
            series = [line for line in series if iteration_of(line) <= header["starts_after"]] + lines
    return series


def read(run: Run, attempt: int) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The first line of an attempt's JSON log (None if it logged nothing), and its training lines, one an iteration.

    A line is in the file twice if storage took all of it but its end, reported an error, and it was written again.
    """
    path = run.json_log(attempt)
    try:
        rows = read_bytes(path, LARGEST).decode(errors="replace").split("\n")
    except FileNotFoundError:
        return None, []
    except Unreadable as error:
        run.note(error)
        return None, []
    header, lines = None, {}  # by iteration
    for row in rows:
        with contextlib.suppress(Unreadable):  # empty, or truncated by a kill
            line = check(parse_json(row, path), dict, path)
            if "starts_after" in line:
                header = check(line, records.LOG_HEADER, path)
            elif header is not None and line.get("mode") == "train":
                check(line, records.LOG_LINE, path)
                iteration = _iteration(line, header)
                lines[iteration] = {**line, "iteration": iteration, "attempt": attempt}
    return header, list(lines.values())


def append(run: Run, attempt: int, iteration: int, values: Mapping[str, float]) -> None:
    """Add a line to an attempt's JSON log, for a trainer whose framework writes none; a full disk takes no line."""
    with contextlib.suppress(OSError), open(run.json_log(attempt), "ab+", buffering=0) as log:
        lines = [{"mode": "train", "iter": iteration, **values, "timestamp": time.time()}]
        if not log.seek(0, os.SEEK_END):
            lines.insert(0, {"starts_after": run.resumed_after(attempt), "by_epoch": False, "epoch": 0, "position": 0,
                             "iterations_this_epoch": 0, "iterations_per_epoch": 0})
        elif os.pread(log.fileno(), 1, log.tell() - 1) != b"\n":
            log.write(b"\n")  # behind the part of a line that was written
        log.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))


def _iteration(line: dict[str, Any], header: dict[str, Any]) -> int:
    """Optimizer steps done at a log line; by-epoch loggers count ``iter`` from 1 in each epoch."""
    if not header["by_epoch"]:
        return line["iter"]
    later = line.get("epoch", 1) - 1 - header["epoch"]
    # the epoch in which it starts may have a different length, if the run was rescaled
    before = header["iterations_this_epoch"] + (later - 1) * header["iterations_per_epoch"] if later else 0
    return header["starts_after"] + before - header["position"] + line["iter"]


def repeated(run: Run, attempt: int, start: int) -> list[str]:
    """For the readable log: the iterations of earlier attempts that an attempt starting after ``start`` repeats."""
    lines = [f"attempt {attempt} resumes after iteration {start}"] if attempt > 1 else []
    for earlier in run.attempts():
        reached = _reached(run, earlier) if earlier < attempt else 0
        if reached > start:
            first = max(start, _start(run, earlier)) + 1
            lines.append(f"iterations {first} to {reached} of attempt {earlier} are repeated; ignore its lines")
    return lines


def _start(run: Run, attempt: int) -> int:
    header, _ = read(run, attempt)
    return header["starts_after"] if header else 0


def _reached(run: Run, attempt: int) -> int:
    """The last iteration that an attempt recorded anywhere."""
    _, lines = read(run, attempt)
    beat = run.heartbeat(attempt) or {}
    return max([line["iteration"] for line in lines] + [beat.get("iteration") or 0])
