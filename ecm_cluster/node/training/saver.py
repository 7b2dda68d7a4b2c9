"""The trainer's side of a commit: copy the state, hand it to the writer, process the result."""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import time
from collections.abc import Sequence
from typing import Any

import torch

from ...attempts import endings
from ...attempts.failures import DeviceStuck, NotStartable
from ...base import files
from ...rundir import checkpoints, ledger
from ...rundir.run import Run
from . import keeping
from .writer import ALIGNMENT, CommitRequest, CommitResult, Writer

GRAIN = 1 << 21  # bytes by which the shared memory grows: a huge page
PLAIN_DATA = "keep plain data there: numbers, strings, lists, dicts, tensors and arrays"
ELSEWHERE = "keep tensors in a buffer of the model or in runner.meta, other data as numbers, strings, lists and dicts"
NAMED = 5  # things that a checkpoint cannot hold, in a message
REASON_LENGTH = 300  # of an error's text in the heartbeat
DEVICE_SECONDS = 120.0  # for a GPU to finish a step and the copies after it, which takes a detector a few at most


class SharedCopy:
    """Memory shared with the writer, into which each state is copied; it grows and is used again.

    It has no name that could be left behind, and does not count against the size of ``/dev/shm``.

    Attributes:
        lost: What the newest state had that no checkpoint can hold; see :func:`keeping.pickled`.
    """

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("checkpoint", os.MFD_CLOEXEC)
        self.size = 0
        self.lost: list[str] = []
        self._bytes: torch.Tensor | None = None
        self._pinned = False

    def take(self, state: Any) -> tuple[bytes, list[tuple[int, int]]]:
        """Copy a state; when this returns, the training may change its tensors.

        Returns:
            The pickled rest of the state, and (offset, bytes) of each storage in the memory.
        """
        structure, storages, self.lost = keeping.pickled(state)
        spans, end = [], 0
        for storage in storages:
            spans.append((end, storage.nbytes()))
            end += -(-storage.nbytes() // ALIGNMENT) * ALIGNMENT
        on_gpu = any(storage.device.type == "cuda" for storage in storages)
        self._reserve(end, on_gpu)
        assert self._bytes is not None
        for storage, (offset, size) in zip(storages, spans):
            if size:
                source = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
                self._bytes[offset:offset + size].copy_(source, non_blocking=True)
        if on_gpu:
            await_device()
        return structure, spans

    def _reserve(self, size: int, pin: bool) -> None:
        if size > self.size or self._bytes is None:
            self._unpin()
            self._bytes = None
            self.size = max(GRAIN, -(-size // GRAIN) * GRAIN)
            os.ftruncate(self.descriptor, self.size)
            self._bytes = torch.frombuffer(mmap.mmap(self.descriptor, self.size), dtype=torch.uint8)
        if pin and not self._pinned:
            # without pinned pages the copies still work, one after the other and slower
            self._pinned = _succeeded(torch.cuda.cudart().cudaHostRegister(self._bytes.data_ptr(), self.size, 0))

    def _unpin(self) -> None:
        if self._pinned and self._bytes is not None:
            _succeeded(torch.cuda.cudart().cudaHostUnregister(self._bytes.data_ptr()))
        self._pinned = False


def await_device(seconds: float = DEVICE_SECONDS) -> None:
    """Wait until the GPU has done what it was given so far, the copies included.

    Raises:
        DeviceStuck: It takes longer than ``seconds``: a kernel hangs, or waits for another rank that is gone.
    """
    done = torch.cuda.Event()
    done.record()
    end = time.monotonic() + seconds
    while not done.query():
        if time.monotonic() > end:
            raise DeviceStuck(f"the GPU did not finish its work within {seconds:.0f} s, so this iteration "
                              "could not be saved; the previous checkpoint remains")
        time.sleep(0.0002)  # far less than a copy takes, and the training stands still meanwhile


def _succeeded(result: Any) -> bool:
    """Whether a call of the CUDA runtime succeeded; where not, its error is taken off the runtime.

    torch's binding leaves the error pending, and the next kernel launch, whose own it is not, would raise it.
    """
    if int(result) == 0:
        return True
    with contextlib.suppress(RuntimeError):
        torch.zeros(1, device="cuda").add_(1)  # a launch: torch looks for an error after it, and so clears this one
    return False


class Saver:
    """Commits checkpoints of one attempt, one at a time, while the training continues.

    Args:
        keep: Checkpoints to retain besides epochs' ends.
        record: Takes the events; patient, as a full disk takes none.

    Attributes:
        last: The newest checkpoint that this attempt committed.
        failure: Why the newest one could not be committed, if so.
        blocked_seconds: How long the newest one blocked the training.
        write_seconds: How long the newest committed one took the writer.
        spare: The iteration of a checkpoint that is kept when later ones are committed.
    """

    def __init__(self, run: Run, attempt: int, keep: int, record: ledger.Ledger,
                 logger: logging.Logger) -> None:
        self.run, self.attempt, self.keep, self.record, self.logger = run, attempt, keep, record, logger
        self.last: checkpoints.Manifest | None = None
        self.failure: str | None = None
        self.blocked_seconds = self.write_seconds = 0.0
        self.spare: int | None = None
        self._request: CommitRequest | None = None
        self._facts: dict[str, Any] = {}
        self._failing: tuple[float, str] | None = None
        counting = checkpoints.accepted(run)
        self._standing = counting[-1].iteration if counting else None
        self._said: set[str] | None = None  # what this attempt's commits lacked
        self._memory = SharedCopy()
        self.writer = Writer(run, attempt, self._memory.descriptor)

    def commit(self, state: Any, *, iteration: int, epoch: int, position: int,
               epoch_end: bool, step: int = 1, unkept: Sequence[str] = (), **facts: Any) -> None:
        """Begin to commit a state; waits for the one before it, if that is still being written.

        Args:
            unkept: Names of what the state lacks of what hooks and modules hold.
            facts: Fields for the event of the commit.
        """
        began = time.monotonic()
        # before the copy: the writer still reads the memory that it overwrites
        self.settle(wait=True)
        structure, spans = self._memory.take(state)
        if self._said is None:
            require_essentials(self._memory.lost)
        self._report_lost(self._memory.lost, PLAIN_DATA, iteration)
        self._report_lost(unkept, ELSEWHERE, iteration)
        self._request = CommitRequest(iteration, epoch, position, epoch_end, step, structure, spans, self._memory.size,
                                self.keep, self.spare)
        self._facts = facts
        self.writer.send(self._request)
        self.blocked_seconds = time.monotonic() - began

    def _report_lost(self, lost: Sequence[str], remedy: str, iteration: int) -> None:
        """Name what a checkpoint cannot hold, once."""
        said, self._said = self._said or set(), {*(self._said or ()), *lost}
        if not said.issuperset(lost):
            text = f"checkpoints do not hold {listed(lost)}: it is lost on a restart"
            self.logger.warning("%s; %s", text, remedy)
            self.record.write("warning", about="not kept", iteration=iteration, text=text)

    def again(self) -> None:
        """Retry the newest state, whose copy still exists; waits for the result."""
        assert self._request is not None
        self.writer.send(self._request)
        self.settle(wait=True)

    def settle(self, wait: bool) -> None:
        """Process the result of the checkpoint in progress, if there is one.

        Raises:
            checkpoints.StaleAttempt: A newer attempt has begun, and this one is stale.
        """
        began = time.monotonic()
        outcome = self.writer.outcome(wait)
        if outcome is None or self._request is None:
            return
        if outcome.stale:
            raise checkpoints.StaleAttempt(outcome.reason)
        if outcome.manifest is None:
            self._report_failed(outcome, self._request)
            return
        manifest, self.failure, self._failing = outcome.manifest, None, None
        self.last, self.write_seconds, self._standing = manifest, outcome.seconds, manifest.iteration
        files.kill_point("before-commit-event", manifest.path(self.run))
        self.record.write("commit", **checkpoints.describe(manifest), epoch_end=manifest.epoch_end,
                          blocked_seconds=round(self.blocked_seconds, 4), write_seconds=round(outcome.seconds, 3),
                          waited_seconds=round(time.monotonic() - began, 4) if wait else 0.0, bytes=manifest.size,
                          **self._facts)

    def _report_failed(self, outcome: CommitResult, request: CommitRequest) -> None:
        self.failure = outcome.reason
        stands, again = self.stands(), self._failing is not None
        self._failing = self._failing[0] if self._failing else time.monotonic(), outcome.reason[:REASON_LENGTH]
        self.logger.warning("the checkpoint of iteration %d could not be written: %s; %s", request.iteration,
                       outcome.reason, stands)
        if again:
            self.logger.warning("%s", endings.failing_text(self.trouble()))
        self.record.write("commit-failed", iteration=request.iteration, reason=outcome.reason, stands=stands)

    def stands(self) -> str:
        """Which checkpoint a restart would resume from, in words; known without a look at the storage that fails."""
        return "there is none yet" if self._standing is None else f"iteration {self._standing} stands"

    def trouble(self) -> dict[str, Any] | None:
        """Since when commits have failed, and why; None where the newest succeeded."""
        if self._failing is None:
            return None
        began, reason = self._failing
        return {"seconds": round(time.monotonic() - began), "reason": reason, "stands": self._standing}


def require_essentials(lost: Sequence[str]) -> None:
    """Raise NotStartable where a checkpoint lacks more than what hooks keep in ``meta``: nothing could resume.

    Args:
        lost: Dotted keys of what it cannot hold.
    """
    essential = [one for one in lost if not one.startswith("meta.")]
    if essential:
        raise NotStartable(f"a checkpoint cannot hold {listed(essential)}, and nothing could resume without it; "
                           f"{PLAIN_DATA}")


def listed(names: Sequence[str]) -> str:
    """The first few of them, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
