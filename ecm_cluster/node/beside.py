"""Looks at shared storage, and questions to Slurm, beside the loop that watches a worker."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

Answer = TypeVar("Answer")


class Beside:
    """Calls something again and again in a thread of its own: what hangs or fails there holds up nobody else.

    An error is reported once and leaves ``value`` as it was; the next call may succeed.

    Args:
        call: One call at a time.
        seconds: Between two calls; None: call once.

    Attributes:
        value: What the newest call that succeeded has returned; None before.
    """

    def __init__(self, call: Callable[[], Any], seconds: float | None) -> None:
        self.value: Any = None
        self._call, self._seconds = call, seconds
        self._began: float | None = None
        self._wake, self._ends, self._final_call = threading.Event(), False, False
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    @property
    def stuck(self) -> float:
        """Seconds that the call under way has taken so far."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    def soon(self) -> None:
        """Call again without waiting."""
        self._wake.set()

    def close(self, patience: float = 0.0) -> None:
        """Call no more; but once, now, where there is patience to wait for it."""
        self._ends, self._final_call = True, patience > 0
        self._wake.set()
        if patience > 0:
            self._thread.join(patience)

    def _loop(self) -> None:
        quiet = Quiet()
        while not self._ends or self._final_call:
            self._final_call = False
            self._began = time.monotonic()
            with quiet:
                self.value = self._call()
            self._began = None
            if self._seconds is None:
                return
            if not self._ends:
                self._wake.wait(self._seconds)
                self._wake.clear()


MOST = 20  # different errors that are said


class Quiet:
    """A context in which no error gets out: each is said once, on stderr."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __enter__(self) -> Quiet:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        self.say(error)
        return True

    def say(self, error: Exception) -> None:
        """Say what is wrong, once."""
        text = f"{type(error).__name__}: {error}"
        if text not in self._said and len(self._said) < MOST:
            self._said.add(text)
            with contextlib.suppress(OSError):  # stderr may be a file on the storage that fails
                print(f"warning: {text}; it is tried again", file=sys.stderr, flush=True)


def patiently(call: Callable[[], Answer], seconds: float) -> Answer:
    """What a call answers that needs shared storage; while that answers with errors it is asked again.

    Raises:
        OSError, ValueError: It still did after so many seconds.
    """
    end, quiet = time.monotonic() + seconds, Quiet()
    while True:
        try:
            return call()
        except (OSError, ValueError) as error:  # a file that is being replaced reads as neither
            if time.monotonic() >= end:
                raise
            quiet.say(error)
        time.sleep(1.0)
