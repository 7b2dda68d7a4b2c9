"""The loop in which a supervisor watches its worker: until that ends, or must be ended.

What the loop asks itself costs no system call on shared storage: the worker's progress is in memory that both share.
Everything else is looked at beside it, so that storage which fails, hangs or is full ends nothing.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...rundir import ledger
from ...rundir.run import Work
from .. import signals, world
from ..beside import Beside, Quiet
from ..heartbeat import HeartbeatFile, HeartbeatMemory
from ..world import RankInfo
from . import postmortem, watchdog

LOOK_SECONDS = 1.0  # between two looks at shared storage for another rank's abort
STACKS_SECONDS = 1.0  # for faulthandler to write all stacks before the worker is killed
STOPPED = "stopped"  # phase of a worker that has agreed to stop and committed, and has nothing to do but end
LEAVE_SECONDS = 20.0  # that it may take to end: what it leaves behind, the GPU's driver clears up
KILL_SECONDS = 10.0  # that a killed worker may take to end; one that waits for a broken GPU may never


@dataclass(frozen=True)
class StorageReport:
    """What shared storage says: why to end (a rank's abort), and a rank of this machine that died silently."""

    abort: dict[str, Any] | None = None
    lost: int | None = None


class Watch:
    """Watches the worker of one rank in one attempt.

    Args:
        hang_seconds: The job's ``hang_minutes`` in seconds; 0: never.
        poll_signals: What the supervisor does about signals, called twice a second.

    Attributes:
        stopped_since: When the worker said that it has agreed to stop, if it has.
    """

    def __init__(self, work: Work, place: RankInfo, attempt: int, record: ledger.Ledger, memory: HeartbeatMemory,
                 hang_seconds: float, poll_signals: Callable[[], None]) -> None:
        self.work, self.place, self.attempt, self.record, self.memory = work, place, attempt, record, memory
        self.poll_signals = poll_signals
        self.stopped_since: float | None = None
        self._abort: dict[str, Any] | None = None
        self._dog = watchdog.Watchdog(hang_seconds)
        self._near = watchdog.Neighbours(work, attempt, place.rank, place.world_size)
        self._quiet = Quiet()

    def until_it_ends(self, worker: subprocess.Popen) -> int:
        """Wait for the worker, or end it; its exit code, negative for a signal."""
        looks = Beside(self._look, LOOK_SECONDS)
        beats = Beside(HeartbeatFile(self.work, self.attempt, self.memory).write, 0.2) if self.place.rank == 0 else None
        try:
            while True:
                try:
                    return worker.wait(timeout=0.5)
                except subprocess.TimeoutExpired:
                    if self._must_end(worker, looks):
                        return _end(worker)
        finally:
            looks.close()
            if beats is not None:
                beats.close(patience=2.0)  # for a last heartbeat; storage that hangs must not hold up the end
                self.record.write("phase", phase="ended", iteration=self.memory.read().get("iteration"))

    def _look(self) -> StorageReport:
        abort = postmortem.read_abort(self.work, self.attempt)
        alone = abort is None and not self.place.on_slurm
        return StorageReport(abort, self._near.lost() if alone else None)

    def _must_end(self, worker: subprocess.Popen, looks: Beside) -> bool:
        """Whether to end the worker: a rank failed, it gives no heartbeat, or it stopped and does not exit."""
        if signals.asked_to_stop() and self._should_have_left():
            return True
        seen = looks.value or StorageReport()
        if seen.abort is None:
            silence = self._dog.silent(self.memory.read(), watchdog.look_at(worker.pid),
                                       storage_answers=looks.stuck < watchdog.PAUSE_SECONDS)
            if silence is not None:
                self._record_hung(silence)
            elif seen.lost is not None:
                self._record_end("killed", seen.lost, f"rank {seen.lost}: its task ended without recording a reason")
            elif world.driver_is_gone() and not signals.asked_to_stop():
                signals.ask_to_stop(signal.SIGTERM)
            with self._quiet:
                self.poll_signals()
            if signals.asked_to_stop():
                looks.soon()
        abort = self._abort or seen.abort
        if abort is None:
            return False
        if abort.get("cause") == "hung":
            send(worker, signal.SIGUSR1)  # each rank says where it stands: those that wait, and the one that hangs
            time.sleep(STACKS_SECONDS)
        return True

    def _record_hung(self, silence: watchdog.Silence) -> None:
        rank = self.place.rank
        self._record_end("hung", rank, f"rank {rank}: {silence.text}; see {self.work.stacks_file(self.attempt, rank)}",
                   silence=silence.seconds, process_state=silence.process.state,
                   cpu_seconds=silence.process.cpu_seconds)

    def _record_end(self, cause: str, rank: int, detail: str, **evidence: Any) -> None:
        """Put an end on record, and have the other ranks end; this one's worker ends even if that fails."""
        self._abort = {"rank": rank, "cause": cause}
        # before the abort file: at that the other ranks end, and srun -K1 then ends this task, too
        self.record.write("end", cause=cause, rank=rank, detail=detail, **evidence)
        with self._quiet:
            postmortem.abort(self.work, self.attempt, self.record, **self._abort)

    def _should_have_left(self) -> bool:
        """Whether the worker has committed, and its end takes too long: NCCL or a GPU must not delay the requeue."""
        if self.stopped_since is None:
            if self.memory.read().get("phase") != STOPPED:
                return False
            self.stopped_since = time.monotonic()
        return time.monotonic() - self.stopped_since > LEAVE_SECONDS


def send(worker: subprocess.Popen, number: int) -> None:
    """Signal a worker if it is alive."""
    if worker.poll() is None:
        worker.send_signal(number)


def _end(worker: subprocess.Popen) -> int:
    """Kill the worker; its exit code."""
    worker.kill()
    try:
        return worker.wait(timeout=KILL_SECONDS)
    except subprocess.TimeoutExpired:
        return -signal.SIGKILL  # it waits in the kernel, for a GPU that does not answer
