"""Silence: when a worker counts as hung, and when another task of this machine has died without recording a reason."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...rundir.run import Work

# Silence that is allowed in a phase, as a share of the job's hang_minutes. A phase counts by its first words; what is
# not named here has the whole. None: waiting for others, whom their own supervisors watch. Wherever ranks wait for each
# other without saying so, in a collective, they are in phases of the same limit.
# 1/6 is 5 of the default 30 minutes: a step or an image takes seconds, the other phases read or write gigabytes
PHASES: dict[str, float | None] = {"starting": 1.0, "staging": 1.0, "first iteration": 1.0, "saving": 1.0,
                                   "training": 1 / 6, "inference": 1 / 6, "scoring": 2.0, "waiting": None}
SLOWEST = 20.0  # an iteration may take this many times the usual, regardless of the limit
PAUSE_SECONDS = 5.0  # a gap between two looks that says that this process itself did not run (scontrol suspend)
STOPPED_STATES = "Tt"  # by a signal, or by a debugger
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """What the kernel says of a process: its state (R, S, D, T, …) and the CPU time that it has used."""

    state: str
    cpu_seconds: float


def look_at(pid: int) -> Process:
    """What the kernel says of a process; state ``?`` where it says nothing."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as handle:
            fields = handle.read().rpartition(")")[2].split()
        return Process(fields[0], (int(fields[11]) + int(fields[12])) / TICKS)
    except (OSError, IndexError, ValueError):
        return Process("?", 0.0)


@dataclass(frozen=True)
class Silence:
    """Evidence that a worker hangs.

    Attributes:
        text: What has been silent for how long, in words.
        seconds: How long, not counting the time in which it could not run.
        process: The worker's state at the end, and the CPU time that it used in its silence.
    """

    text: str
    seconds: float
    process: Process


class Watchdog:
    """Tells from a worker's heartbeat whether it hangs.

    Silence is time in which the worker could have said something: it was not stopped, this process was not either
    (both are where Slurm suspends a job), and shared storage, for which it may be waiting, answered.

    Args:
        seconds: The job's ``hang_minutes`` in seconds; 0: never.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.silence = seconds, 0.0
        self._clock = clock
        self._beat: dict[str, Any] = {}
        self._cpu: float | None = None
        self._asked = clock()

    def limit(self, beat: dict[str, Any]) -> float | None:
        """Seconds of silence that are allowed after a beat; None: any."""
        phase = beat.get("phase", "starting")
        share = next((s for name, s in PHASES.items() if phase.startswith(name)), 1.0)
        if share is None or not self.seconds:
            return None
        return max(share * self.seconds, SLOWEST * (beat.get("seconds_per_iteration") or 0.0))

    def silent(self, beat: dict[str, Any], process: Process, storage_answers: bool = True) -> Silence | None:
        """What has been silent for how long, if that is too long; to be asked about twice a second.

        Args:
            beat: The worker's newest record, which differs from the one before if there is news.
        """
        now = self._clock()
        passed, self._asked = now - self._asked, now
        if beat != self._beat or self._cpu is None:
            self._beat, self._cpu, self.silence = beat, process.cpu_seconds, 0.0
        elif passed <= PAUSE_SECONDS and process.state not in STOPPED_STATES and storage_answers:
            self.silence += passed
        limit = self.limit(beat)
        if limit is None or self.silence < limit:
            return None
        used = Process(process.state, round(process.cpu_seconds - self._cpu, 1))
        at = f", iteration {beat['iteration']}" if beat.get("iteration") is not None else ""
        return Silence(f"{beat.get('phase', 'starting')}{at}: no progress for {self.silence:.0f} s (process state "
                       f"{used.state}, {used.cpu_seconds} s of CPU time in it)", round(self.silence, 1), used)


class Neighbours:
    """The other tasks of an attempt on this machine, where no srun -K1 ends what a dead one leaves behind."""

    def __init__(self, work: Work, attempt: int, rank: int, world_size: int) -> None:
        self.work, self.attempt, self.rank, self.world_size = work, attempt, rank, world_size
        self._pids: dict[int, int] = {}
        self._looked = time.monotonic()

    def lost(self) -> int | None:
        """A rank whose supervisor is gone without having recorded why, if there is one."""
        if time.monotonic() - self._looked < 2.0:  # it may read the ledger, which is on shared storage
            return None
        self._looked = time.monotonic()
        if len(self._pids) < self.world_size - 1:
            self._pids = {e["rank"]: e["pid"] for e in self._events() if e.kind == "start"
                          and e["rank"] != self.rank and e["host"] == socket.gethostname()}
        gone = [rank for rank, pid in self._pids.items() if not _alive(pid)]
        if not gone or self.work.decision_file(self.attempt).exists():
            return None
        accounted = {e.get("rank") for e in self._events() if e.kind in ("left", "end")}
        return next((rank for rank in gone if rank not in accounted), None)

    def _events(self) -> list[Any]:
        return self.work.events(self.attempt)


class Siblings:
    """The tasks of a start on this machine before there is an attempt: children of one process, submitit's controller.

    Args:
        count: How many there are, the caller included.
    """

    def __init__(self, count: int) -> None:
        self.parent, self.count, self._looked = os.getppid(), count, time.monotonic()

    def gone(self) -> bool:
        """Whether one has ended, or their parent has; cheap, to be asked often."""
        if time.monotonic() - self._looked < 2.0:  # the first answer comes when all have started
            return False
        self._looked = time.monotonic()
        if os.getppid() != self.parent:
            return True
        pids: set[str] = set()
        for path in Path(f"/proc/{self.parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                pids |= set(path.read_text(encoding="utf-8").split())
        return sum(_alive(int(pid)) for pid in pids) < self.count


def _alive(pid: int) -> bool:
    state = look_at(pid).state
    return os.path.exists(f"/proc/{pid}") if state == "?" else state not in "ZX"


def drop_if_empty(path: Path) -> None:
    """Remove a stacks file that nothing was written to."""
    with contextlib.suppress(OSError):
        if path.stat().st_size == 0:
            path.unlink()
