"""How far a long copy is: a bar on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..base.units import size_text
from . import output

EVERY = 5.0  # seconds between two lines of a log


@contextmanager
def shown(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Gives a function that is told the bytes that are done; it may be called by several threads.

    Args:
        what: What is done, such as ``packing``.
        total: Bytes.
    """
    if not sys.stderr.isatty():
        yield _lines(what, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    with Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
                  TimeRemainingColumn(), console=Console(file=output.bare(sys.stderr)),
                  redirect_stdout=False, redirect_stderr=False, transient=True) as bar:
        task = bar.add_task(output.printable(what), total=total)
        yield lambda size: bar.advance(task, size)


def _lines(what: str, total: int) -> Callable[[int], None]:
    lock = threading.Lock()
    began = said = time.monotonic()
    done = 0

    def advance(size: int) -> None:
        nonlocal done, said
        with lock:
            done += size
            now = time.monotonic()
            if now - said < EVERY:
                return
            said = now
        print(f"{what}: {size_text(done)} of {size_text(total)}, {rate(done, now - began)}", file=sys.stderr,
              flush=True)

    return advance


def rate(size: float, seconds: float) -> str:
    return f"{size_text(size / max(seconds, 1e-3))}/s"
