"""Silence: when a worker counts as hung, and when another task of this machine has died without a word."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..run import Work

# Silence that is allowed in a phase, as a share of the job's hang_minutes. A phase counts by its first words; what is
# not named here has the whole. None: waiting for others, whom their own supervisors watch.
PHASES: dict[str, float | None] = {"starting": 1.0, "staging": 1.0, "first iteration": 1.0, "saving": 1.0,
                                   "training": 1 / 6, "inference": 1 / 6, "scoring": 2.0, "waiting": None}
SLOWEST = 20.0  # an iteration may take this many times the usual, whatever the limit
PAUSE_SECONDS = 30.0  # a gap between two looks that says that this process itself did not run (scontrol suspend)


class Watchdog:
    """Tells from the heartbeats whether a worker hangs.

    A rank that waits for another one, in a collective, is as silent as the one that hangs. So silence counts only
    while nothing is heard of any rank. Clocks are not compared: a heartbeat that differs from the last one is news.

    Args:
        seconds: The job's ``hang_minutes`` in seconds; 0: never.
    """

    def __init__(self, work: Work, attempt: int, rank: int, world_size: int, seconds: float,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.work, self.attempt, self.rank, self.world_size, self.seconds = work, attempt, rank, world_size, seconds
        self._clock = clock
        self._own: Any = None
        self._others: Any = None
        self._since = self._looked = self._asked = clock()

    def limit(self, beat: dict[str, Any] | None) -> float | None:
        """Seconds of silence that are allowed after a heartbeat; None: any."""
        phase = (beat or {}).get("phase", "starting")
        share = next((s for name, s in PHASES.items() if phase.startswith(name)), 1.0)
        if share is None or not self.seconds:
            return None
        usual = (beat or {}).get("seconds_per_iteration") or 0.0
        return max(share * self.seconds, SLOWEST * usual)

    def silent(self) -> str | None:
        """What has been silent for how long, if that is too long; cheap, to be asked twice a second."""
        now = self._clock()
        if now - self._asked > PAUSE_SECONDS:
            self._since += now - self._asked
        self._asked = now
        if not self.seconds or now - self._looked < min(5.0, self.seconds / 60):
            return None
        self._looked = now
        beat = self.work.heartbeat(self.attempt, self.rank)
        if beat != self._own:
            self._own, self._others, self._since = beat, None, now
            return None
        limit, silence = self.limit(beat), now - self._since
        if limit is None or silence < limit / 2:
            return None
        others = {r: self.work.heartbeat(self.attempt, r) for r in range(self.world_size) if r != self.rank}
        if self._others is not None and others != self._others:
            self._since = now
        self._others = others
        if now - self._since < limit:
            return None
        beat = beat or {}
        at = f", iteration {beat['iteration']}" if beat.get("iteration") is not None else ""
        return f"{beat.get('phase', 'starting')}{at}: no rank was heard of for {silence:.0f} s"


class Neighbours:
    """The other tasks of an attempt on this machine, where no srun -K1 ends what a dead one leaves behind."""

    def __init__(self, work: Work, attempt: int, rank: int, world_size: int) -> None:
        self.work, self.attempt, self.rank, self.world_size = work, attempt, rank, world_size
        self._pids: dict[int, int] = {}
        self._looked = time.monotonic()

    def lost(self) -> int | None:
        """A rank whose supervisor is gone without having recorded why, if there is one."""
        if time.monotonic() - self._looked < 2.0:
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
        return [e for e in self.work.events() if e.attempt == self.attempt]


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
                pids |= set(path.read_text().split())
        return sum(_alive(int(pid)) for pid in pids) < self.count


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as handle:
            return handle.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (OSError, IndexError):
        return os.path.exists(f"/proc/{pid}")


def drop_if_empty(path: Path) -> None:
    """Remove a stacks file that nothing was written to."""
    with contextlib.suppress(OSError):
        if path.stat().st_size == 0:
            path.unlink()
