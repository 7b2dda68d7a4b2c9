"""Progress of a long copy, download or computation: a bar on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable

from ..base.units import size_text
from . import output

EVERY = 5.0  # seconds between two lines of a log

Advance = Callable[[int], None]


@contextmanager
def shown(what: str, total: int | None, unit: str = "") -> Iterator[Advance]:
    """Yields a function to call with what was done since the last call, from any thread.

    Args:
        what: The activity, such as ``packing``.
        total: Bytes, or what ``unit`` names; None: not known.
        unit: Such as ``images``.
    """
    if not sys.stderr.isatty():
        yield _lines(what, total, unit)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = [MofNCompleteColumn(), TextColumn(unit)] if unit else [DownloadColumn(), TransferSpeedColumn()]
    with Progress(TextColumn("{task.description}"), BarColumn(), *columns, TimeRemainingColumn(),
                  console=Console(file=output.bare(sys.stderr)), redirect_stdout=False, redirect_stderr=False,
                  transient=True) as bar:
        task = bar.add_task(output.printable(what), total=total)
        yield lambda count: bar.advance(task, count)


def _lines(what: str, total: int | None, unit: str) -> Advance:
    lock = threading.Lock()
    began = printed = time.monotonic()
    done = 0

    def text(count: float) -> str:
        return f"{count:.0f} {unit}" if unit else size_text(count)

    def advance(count: int) -> None:
        nonlocal done, printed
        with lock:
            done += count
            now = time.monotonic()
            if now - printed < EVERY:
                return
            printed = now
        whole = f" of {text(total)}" if total is not None else ""
        print(f"{what}: {text(done)}{whole}, {text(done / (now - began))}/s", file=sys.stderr, flush=True)

    return advance


def rate(size: float, seconds: float) -> str:
    return f"{size_text(size / max(seconds, 1e-3))}/s"
