"""What is done to a run besides kills: processes that stand still, a second user, a file system that fails."""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import mmap
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from small import ROOT

from ecm_cluster.base import files
from ecm_cluster.rundir.run import Run

from .places import Missed, Place
from .plan import LINK, Trouble
from .tally import Tally

SEEKING = 10.0  # seconds after which a process to stop is not waited for any more


class Troubles:
    """Those of one run, from a thread of their own, as the campaign itself may wait for a verb meanwhile.

    Attributes:
        env: What the run's processes must inherit.
        wrong: The output of a second user's verb that ended with a traceback or an unexpected exit code.
    """

    def __init__(self, run: Run, place: Place, tally: Tally, beside: Path) -> None:
        self.run, self.place, self.tally, self.wrong = run, place, tally, ""
        self._order = Path(f"{beside}.stop")
        control = Path(f"{beside}.faults")
        control.write_bytes(bytes(16))
        with control.open("r+b") as handle:
            self._control = mmap.mmap(handle.fileno(), 16)
        self.env = {files.STOP_ENV: f"@{self._order}", "LD_PRELOAD": str(library()), "FAULTS_FOLDER": str(run.path),
                    "FAULTS_CONTROL": str(control)}
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._sought: tuple[float, Trouble] | None = None
        self._pointed: Trouble | None = None
        self._typed: list[tuple[str, subprocess.Popen[bytes], Path]] = []
        self._lock, self._over = threading.RLock(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def begin(self, trouble: Trouble, submit: Sequence[str] = ()) -> None:
        """Start one; the previous ones continue, but a process that was only sought is not sought any more."""
        with self._lock:
            self._take_back()
            if trouble.kind == "writer":
                self._sought = (time.monotonic() + SEEKING, trouble)
            elif trouble.kind == "point":
                self._pointed = trouble
                files.write_text(self._order, trouble.point)
            elif trouble.kind == "faults":
                self._fail(trouble.rate, getattr(errno, trouble.error))
                self._in(trouble.seconds, lambda: self._fail(0.0, 0))
                self.tally.troubled(f"{trouble.error} for some seconds: {trouble.rate:.0%} of the calls")
            else:
                self.type(trouble.verb, submit if trouble.verb == "submit" else [str(self.run.path)], trouble.label)

    def type(self, verb: str, words: Sequence[object], label: str) -> None:
        """Start a verb as a second user would."""
        env = {**os.environ, **self.place.env, **self.env, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", f"ecm_cluster.{verb}", *map(str, words)]
        with self._lock:
            said = Path(f"{self._order}.output{len(self._typed)}-{time.monotonic_ns()}")
            with said.open("w") as out:  # not a pipe: the driver that a verb starts may keep it open
                typed = subprocess.Popen(command, env=env, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
            self._typed.append((verb, typed, said))
        self.tally.troubled(label)

    def end(self) -> None:
        """Wake stopped processes, wait for the second user, and count what has failed. A second call does nothing."""
        if self._over.is_set():
            return
        with self._lock:
            self._take_back()
        deadline = time.monotonic() + 120
        while (self._later or self._typed) and time.monotonic() < deadline:
            time.sleep(0.1)
        self._over.set()
        self._thread.join()
        for pid in stopped(self._order):
            wake(pid)
        for name, count in zip(("ESTALE", "ENOSPC"), self.failed()):
            self.tally.failed[name] += count

    def failed(self) -> tuple[int, int]:
        """How many calls have failed with ESTALE, and with ENOSPC."""
        _, _, stale, full = struct.unpack("4I", self._control[:])
        return stale, full

    # -- the thread

    def _run(self) -> None:
        while not self._over.wait(0.1):
            with self._lock:
                due = [do for at, do in self._later if at <= time.monotonic()]
                self._later = [(at, do) for at, do in self._later if at > time.monotonic()]
                for do in due:
                    do()
                self._seek_writer()
                self._look_for_stopped()
                self._hear_second_user()

    def _take_back(self) -> None:
        """Seek and order nothing any more; a process that has taken the order is stopped soon, and has to be woken."""
        self._sought = None
        self._order.unlink(missing_ok=True)
        taken, end = Path(f"{self._order}{files.TAKEN}"), time.monotonic() + SEEKING
        while self._pointed and taken.exists() and time.monotonic() < end:
            self._look_for_stopped()
            time.sleep(0.05)
        self._pointed = None
        taken.unlink(missing_ok=True)  # of a process that was killed before it stopped

    def _in(self, seconds: float, do: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + seconds, do))

    def _fail(self, rate: float, number: int) -> None:
        self._control[:8] = struct.pack("2I", round(rate * 1_000_000), number)

    def _seek_writer(self) -> None:
        if self._sought is None:
            return
        until, trouble = self._sought
        try:
            pid = self.place.writer(self.run)
            os.kill(pid, signal.SIGSTOP)
        except (Missed, ProcessLookupError):
            if time.monotonic() > until:
                self._sought = None
            return
        self._sought = None
        self.tally.troubled(trouble.label)
        self._in(trouble.seconds, functools.partial(wake, pid))

    def _look_for_stopped(self) -> None:
        trouble, taken = self._pointed, Path(f"{self._order}{files.TAKEN}")
        if trouble is None or not taken.exists():
            return
        pids = stopped(self._order)
        if not pids:
            return  # it is about to stop
        taken.unlink()
        self._pointed = None
        self.tally.troubled(trouble.label)
        if trouble.node_fails and trouble.point == LINK:
            back = self.place.lose_node(pids[0])
            if back is not None:
                self._in(trouble.seconds + 10.0, back)
        for pid in pids:
            self._in(trouble.seconds, functools.partial(wake, pid))

    def _hear_second_user(self) -> None:
        for verb, typed, output in list(self._typed):
            if typed.poll() is None:
                continue
            self._typed.remove((verb, typed, output))
            said = output.read_text()
            output.unlink()
            if typed.returncode not in (0, 2, -signal.SIGKILL) or "Traceback" in said:
                self.wrong = f"{verb}, typed by a second user: exit code {typed.returncode}\n{said}"


def wake(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def stopped(order: Path) -> list[int]:
    """Processes that this order has stopped."""
    found = []
    mark = f"{files.STOP_ENV}=@{order}".encode()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "T" and mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(int(pid))
    return found


@functools.lru_cache(maxsize=None)
def library() -> Path:
    """The file system that fails, compiled for this machine; see ``faults.c``."""
    folder = tempfile.mkdtemp(prefix="chaos-faults-")
    atexit.register(shutil.rmtree, folder)
    built = Path(folder) / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", built, source, "-ldl"], check=True)
    return built
