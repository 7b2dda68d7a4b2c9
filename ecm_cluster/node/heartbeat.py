"""The heartbeat: how far a worker is, from its memory to its supervisor, and from there to shared storage.

A worker rewrites one record in memory that it shares with its supervisor; that costs microseconds and can neither fail
nor block, since no file system stands between the two. The supervisor tells from the record whether the worker hangs
(``watchdog.py``). Rank 0's copies it to the attempt's heartbeat file, which says to everybody else that the attempt is
alive (:meth:`ecm_cluster.rundir.work.Work.silence`) and how far it is.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
import zlib
from typing import Any

from ..rundir.work import Work

ENV = "ECM_CLUSTER_HEARTBEAT_FD"  # in the worker: the descriptor of the shared memory
SIZE = 1 << 14  # bytes: a record has some hundreds, and an error's text in it is cut at 300
HEADER = struct.Struct("<II")  # bytes of the record, and their checksum
TRIES = 5  # reads that may meet a record half written; then the previous one stands, and the next look is soon
SECONDS_ENV = "ECM_CLUSTER_HEARTBEAT_SECONDS"
# between two writes of the file, and between two that differ in their phase: a reader takes 60 s without one for an end
FILE_SECONDS, PHASE_SECONDS = 10.0, 1.0


class HeartbeatMemory:
    """The memory that a supervisor and its worker share.

    Args:
        descriptor: Of existing memory; without it new memory is made.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is None:
            descriptor = os.memfd_create("heartbeat", os.MFD_CLOEXEC)
            os.ftruncate(descriptor, SIZE)
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, SIZE)
        self._newest: dict[str, Any] = {}
        self._beats = 0

    def write(self, **progress: Any) -> None:
        """Replace the record; each one differs from the last, as it counts."""
        self._beats += 1
        record = {**progress, "beats": self._beats}
        data = json.dumps(record).encode()
        if len(data) > SIZE - HEADER.size:  # a text of unforeseen length; the numbers and words must get through
            data = json.dumps({k: v if len(str(v)) < 100 else str(v)[:100] for k, v in record.items()}).encode()
        self._memory[HEADER.size:HEADER.size + len(data)] = data
        self._memory[:HEADER.size] = HEADER.pack(len(data), zlib.crc32(data))

    def read(self) -> dict[str, Any]:
        """The newest record, empty before the first; one that is being rewritten fails its checksum."""
        for _ in range(TRIES):
            size, checksum = HEADER.unpack(self._memory[:HEADER.size])
            data = self._memory[HEADER.size:HEADER.size + size]
            if size and zlib.crc32(data) == checksum:
                self._newest = json.loads(data)
                break
        return self._newest

    def close(self) -> None:
        self._memory.close()
        os.close(self.descriptor)


_own: HeartbeatMemory | None = None


def beat(**progress: Any) -> None:
    """In a worker: say how far it is (``phase``, ``iteration``, …); news of any kind means that it does not hang."""
    global _own
    if _own is None:
        inherited = os.environ.get(ENV)
        _own = HeartbeatMemory(int(inherited) if inherited else None)
    _own.write(**progress)


def last() -> dict[str, Any]:
    """In a worker: its newest record."""
    return _own.read() if _own is not None else {}


class Counter:
    """In a worker: heartbeats of work that is counted, about once a second while the count grows."""

    def __init__(self) -> None:
        self._last, self._done = float("-inf"), -1

    def __call__(self, done: int, total: int, phase: str) -> None:
        # a copy that stands still is silent: its repeated figure is not news
        if done != self._done and (time.monotonic() - self._last >= 1.0 or done == total):
            self._last, self._done = time.monotonic(), done
            beat(phase=phase, done=done, total=total)


class HeartbeatFile:
    """Rank 0's supervisor: the copy of the record on shared storage, for readers elsewhere; it may be lost.

    Each phase that the worker enters goes into the ledger, as the accounts of the run rest on it; but not the many
    times that it saves, which the commits tell.
    """

    def __init__(self, work: Work, attempt: int, memory: HeartbeatMemory) -> None:
        self.work, self.attempt, self.memory = work, attempt, memory
        self.seconds = float(os.environ.get(SECONDS_ENV) or FILE_SECONDS)
        self._ledger = work.ledger(attempt, "phases", patient=True)
        self._phase: str | None = None
        self._entered: str | None = None
        self._written = float("-inf")

    def write(self) -> None:
        """Write it if it is due."""
        record = {"phase": "starting", **self.memory.read()}
        phase = "training" if record["phase"] == "saving" else record["phase"]  # each look may find it saving
        if phase != self._entered:
            self._entered = phase
            self._ledger.write("phase", phase=phase, iteration=record.get("iteration"))
        news = record["phase"] != self._phase
        if time.monotonic() - self._written >= min(self.seconds, PHASE_SECONDS if news else self.seconds):
            self._written, self._phase = time.monotonic(), record["phase"]
            self.work.write_heartbeat(self.attempt, **record)
