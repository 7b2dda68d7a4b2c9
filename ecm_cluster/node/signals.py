"""Signals: SIGTERM and SIGUSR2 set a flag, in the trainer and in its supervisor; nothing else happens in a handler.

Slurm signals every process of a job step. So a child that must not be hurt (a DataLoader worker, a Slurm command)
starts with both signals blocked; a trainer starts with them blocked too, until its own handlers are installed, and then
finds a signal that came while it was importing.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)

_stacks: list[int] = []
_received: list[int] = []
_continued: list[int] = []
_forward: list[Callable[[int], None]] = []
_ordinary: list[bool] = []


def watch(stacks: Path | None = None) -> None:
    """Install the handlers and unblock the signals.

    Args:
        stacks: Where SIGUSR1 writes what every thread is doing; without it SIGUSR1 is ignored.
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if stacks is not None:
        # written by the C handler itself, so also when Python hangs in a collective or a lock
        _stacks.append(os.open(stacks, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666))
        faulthandler.register(signal.SIGUSR1, file=_stacks[-1], all_threads=True)
    for number in SIGNALS:
        signal.signal(number, _note)
    signal.signal(signal.SIGCONT, lambda number, frame: _continued.append(number))
    # unblocked last: a pending SIGUSR2 would end the process that has no handler yet
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _note(number: int, frame: object) -> None:
    _received.append(number)
    for call in _forward:
        call(number)


def hold_back() -> None:
    """Keep the signals pending until :func:`watch`: nobody else's handlers get them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def forward_to(call: Callable[[int], None] | None) -> None:
    """Pass further signals on; None ends it."""
    _forward[:] = [] if call is None else [call]


def ask_to_stop(number: int) -> None:
    """As if the signal had come."""
    _note(number, None)


def asked_to_stop() -> bool:
    """Whether one of the signals has come since the last :func:`clear`."""
    return bool(_received)


def continued() -> bool:
    """Whether this process has been continued since the last time that this was asked: it may have been suspended."""
    found = bool(_continued)
    _continued.clear()
    return found


def received() -> list[str]:
    """Names of the signals that came, in order."""
    return [signal.Signals(n).name for n in _received]


def clear() -> None:
    _received.clear()


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Children made inside start with both signals blocked, and keep them so."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def ordinary_children() -> Iterator[None]:
    """Processes forked inside, as by other people's ``multiprocessing.Pool``, end at SIGTERM, and with this one.

    With the handlers of :func:`watch` they would note the signal by which a pool ends them, and continue.
    """
    if not _ordinary:
        os.register_at_fork(after_in_child=_be_ordinary)  # for good, so it asks each time
    _ordinary[:] = [True]
    try:
        yield
    finally:
        _ordinary[:] = [False]


def _be_ordinary() -> None:
    if _ordinary == [True]:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        die_with_parent()


def prepare_child() -> None:
    """In a forked child, before exec: block the signals, and die with the parent.

    Without the second, a supervisor that is killed would leave a trainer behind that continues computing, and
    committing, beside the next attempt.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    die_with_parent()


def die_with_parent() -> None:
    """SIGKILL to this process when the thread that started it ends."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def prepare_loader_worker(number: int) -> None:
    """In a worker of a DataLoader: die with the trainer.

    torch's own watchdog sees that the trainer has gone, and then waits indefinitely for a thread that writes into a
    full pipe: its reading end is open in the other workers, which do the same.
    """
    die_with_parent()
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it died before this process could ask to die with it
        os._exit(1)
