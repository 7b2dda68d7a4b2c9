"""A process beside a training that cannot harm it: it may fail, hang or be killed, and is restarted.

It runs in a session of its own, and its supervisor neither waits for it nor shares a file with it. Each line that it
writes to stdout is a warning for the user, an empty one a sign of life. The end of its stdin asks it to complete its
work.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Union

from ..base.units import is_control
from . import signals
from .beside import Beside, Quiet

PAUSES = (5.0, 30.0, 120.0, 600.0, 600.0)  # seconds before each restart; after the last one the process is left alone
SILENT_SECONDS = 300.0  # without a line: it hangs
LAST_SECONDS = 20.0  # for completing its work
LONGEST = 1000  # characters of a warning


class Companion:
    """Watches such a process, in a thread.

    Args:
        warn: Called with each warning.
        log: Gets what the process writes to stderr.
    """

    def __init__(self, command: Sequence[str], log: Path, warn: Callable[[str], None]) -> None:
        self._command, self._log, self._warn = command, log, warn
        self._closing = threading.Event()
        # the process dies with this thread, see `signals.die_with_parent`
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ask it to complete its work; returns at once."""
        self._closing.set()

    def join(self, seconds: float) -> None:
        """Wait for its end."""
        self._thread.join(seconds)

    def _loop(self) -> None:
        quiet = Quiet()
        for pause in (*PAUSES, None):
            with quiet:
                how = self._run()
                if how is None or self._closing.is_set():
                    return
                then = f"it is started again in {pause:.0f} s" if pause else "it is not started again"
                self._warn(f"its process {how}; {then}; see {self._log}")
            if pause is None or self._closing.wait(pause):
                return

    def _run(self) -> str | None:
        """How the process ended; None: as it should."""
        with open(self._log, "ab", buffering=0) as log, subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                env={"PYTHONUTF8": "1", **os.environ, "CUDA_VISIBLE_DEVICES": ""}, start_new_session=True,
                preexec_fn=signals.prepare_child) as process:
            try:
                return self._watch(process)
            finally:
                with suppress(ProcessLookupError):  # with what it has started
                    os.killpg(process.pid, signal.SIGKILL)

    def _watch(self, process: subprocess.Popen) -> str | None:
        assert process.stdin is not None and process.stdout is not None
        last_line, deadline, rest = time.monotonic(), float("inf"), b""
        while True:
            if self._closing.is_set() and deadline == float("inf"):
                process.stdin.close()
                deadline = time.monotonic() + LAST_SECONDS
            if time.monotonic() > min(last_line + SILENT_SECONDS, deadline):
                return f"gave no sign of life for {SILENT_SECONDS:.0f} s" if deadline == float("inf") else "was late"
            if not select.select([process.stdout], [], [], 0.2)[0]:
                continue
            data = os.read(process.stdout.fileno(), 1 << 16)
            last_line = time.monotonic()
            if not data:
                code = process.wait(LAST_SECONDS)
                return f"ended with code {code}" if code else None
            *lines, rest = (rest + data).split(b"\n")
            for line in filter(None, lines):
                text = "".join(c for c in line.decode(errors="replace") if not is_control(c))
                self._warn(text[:LONGEST])


Closing = Union[Beside, Companion]  # what rank 0's supervisor does beside watching its worker
