"""The process that writes checkpoints, so that the trainer need not wait for a disk.

It is a child of rank 0's trainer, without torch and without a CUDA context. The trainer leaves the tensors in memory
that both share, and sends the rest, pickled; the writer makes of them the archive that ``torch.save`` would have made
(a zip file of stored entries: ``data.pkl``, in which tensors point to storages by number, and ``data/<number>`` for
each storage; the format is torch's since 1.6), reads the file's structure back as its reader would, commits it, prunes
old checkpoints, and answers.

It starts with the signals blocked that Slurm sends to every process of a step, and dies with the trainer: a commit is
then absent, as it is with any other death before the manifest.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import struct
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any

from ...base import files, processes
from ...base.errors import UserError
from ...chain import evaluations
from ...pickles import archive
from ...rundir import checkpoints, retention
from ...rundir.run import Run
from .. import signals

ALIGNMENT = 64  # bytes, of each storage in the shared memory and in the file, as torch.save aligns them
ZIP_HEADER = 30  # bytes of a local file header before the name
ZIP64_FIELD = 20  # bytes that zipfile adds to the header of an entry that may outgrow 2 GiB


@dataclass(frozen=True)
class CommitRequest:
    """One checkpoint to write.

    Attributes:
        structure: The pickled state, tensors as references to storages by number.
        spans: (offset, bytes) in the shared memory of each storage, by number.
        memory: Bytes of the shared memory.
        keep: Checkpoints to retain besides epochs' ends.
        spare: The iteration of a further one.
    """

    iteration: int
    epoch: int
    position: int
    epoch_end: bool
    step: int
    structure: bytes
    spans: list[tuple[int, int]]
    memory: int
    keep: int
    spare: int | None = None


@dataclass(frozen=True)
class CommitResult:
    """What became of a request: a manifest, or the reason why there is none.

    Attributes:
        overtaken: A newer attempt has begun: no further checkpoint of this one will count.
    """

    manifest: checkpoints.Manifest | None
    seconds: float
    reason: str = ""
    overtaken: bool = False


class Writer:
    """The trainer's end: at most one request is under way.

    Args:
        memory: File descriptor of the shared memory.
    """

    def __init__(self, run: Run, attempt: int, memory: int) -> None:
        self.run, self.attempt, self.memory = run, attempt, memory
        self._process: subprocess.Popen | None = None
        self._request: CommitRequest | None = None
        self._sent = 0.0
        self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the process; again, if it has died."""
        self._link, theirs = Pipe()
        with theirs:
            descriptors = (theirs.fileno(), self.memory)
            # in the package's own folder: nothing may be imported from where the run happens to be
            self._process = subprocess.Popen(
                processes.imported(sys.executable, "checkpoint writer", self.run.path, self.attempt, *descriptors,
                                   os.getpid()),
                pass_fds=descriptors, stdin=subprocess.DEVNULL, cwd=processes.SOURCE,
                preexec_fn=signals.prepare_child)

    def send(self, request: CommitRequest) -> None:
        """Have a checkpoint written; :meth:`outcome` tells what became of it."""
        assert self._request is None, "one request at a time"
        if self._process is None or self._process.poll() is not None:
            self.start()
        self._request, self._sent = request, time.monotonic()
        with contextlib.suppress(OSError):  # it has just died, which outcome() will find
            self._link.send(request)

    @property
    def busy(self) -> bool:
        return self._request is not None

    def outcome(self, wait: bool) -> CommitResult | None:
        """What became of the request; None if nothing was asked, or if it is under way and ``wait`` is False."""
        if self._request is None or not (wait or self._link.poll()):
            return None
        try:
            answer = self._link.recv()
        except (EOFError, OSError):
            answer = self._after_death(self._request)
        self._request = None
        return answer

    def _after_death(self, request: CommitRequest) -> CommitResult:
        assert self._process is not None
        code = self._process.wait()
        seconds = time.monotonic() - self._sent
        manifest = checkpoints.committed(self.run, request.iteration, self.attempt)
        if manifest is not None:  # it died after the manifest: the checkpoint is whole
            return CommitResult(manifest, seconds)
        with contextlib.suppress(OSError):
            retention.discard(self.run, request.iteration, self.attempt)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return CommitResult(None, seconds, f"the process that writes checkpoints {how}")

    def close(self) -> None:
        """End the process; it may finish what is under way, if that takes no more than a minute."""
        with contextlib.suppress(OSError):
            self._link.send(None)
        self._link.close()
        assert self._process is not None
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main() -> None:
    """The process itself; its arguments are those that :meth:`Writer.start` gives."""
    path, attempt, link_fd, memory, parent = sys.argv[1], *map(int, sys.argv[2:6])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the trainer
    if os.getppid() != parent:
        return  # it died before this process could ask to die with it
    run, link = Run(path), Connection(link_fd)
    with contextlib.suppress(OSError):
        retention.remove_leftovers(run, attempt)
    with contextlib.suppress(EOFError, OSError):
        while (request := link.recv()) is not None:
            link.send(serve(run, attempt, request, memory))


def serve(run: Run, attempt: int, request: CommitRequest, memory: int) -> CommitResult:
    """Commit one checkpoint, then prune."""
    began = time.monotonic()

    def save(handle: files.Digesting) -> None:
        write_archive(handle, request, memoryview(mmap.mmap(memory, request.memory, prot=mmap.PROT_READ)))

    def last_check() -> None:
        archive.check(run.checkpoint_file(request.iteration, attempt))
        checkpoints.check_fence(run, attempt)

    try:
        manifest = checkpoints.commit(run, attempt, save, iteration=request.iteration, epoch=request.epoch,
                                      position=request.position, epoch_end=request.epoch_end, step=request.step,
                                      last_check=last_check)
    except checkpoints.StaleAttempt as error:
        return CommitResult(None, time.monotonic() - began, str(error), overtaken=True)
    except Exception as error:  # whatever it was, the trainer goes on and says so
        reason = error.strerror if isinstance(error, OSError) and error.strerror else repr(error)
        reason = str(error) if isinstance(error, UserError) else reason
        return CommitResult(None, time.monotonic() - began, reason)
    seconds = time.monotonic() - began
    with contextlib.suppress(OSError, UserError, ValueError, LookupError):  # the next commit will prune, too
        awaited = evaluations.awaited(run)
        retention.prune(run, attempt, request.keep,
                          needed=lambda m: m.file in awaited or m.iteration == request.spare)
    return CommitResult(manifest, seconds)


def write_archive(handle: files.Digesting, request: CommitRequest, memory: memoryview) -> None:
    """Write what ``torch.save`` would write of the same state; the same state gives the same bytes."""
    parts: dict[str, Any] = {"data.pkl": request.structure, "byteorder": sys.byteorder.encode()}
    for number, (offset, size) in enumerate(request.spans):
        parts[f"data/{number}"] = memory[offset:offset + size]
    parts["version"] = b"3\n"
    # zipfile asks for no more than write and flush, and so never goes back: the digest is made on the way
    with zipfile.ZipFile(handle, "w", zipfile.ZIP_STORED) as made:  # type: ignore[call-overload]
        for name, data in parts.items():
            entry = zipfile.ZipInfo(f"archive/{name}")
            big = len(data) * 1.05 > zipfile.ZIP64_LIMIT
            start = handle.size + ZIP_HEADER + len(entry.filename) + 4 + (ZIP64_FIELD if big else 0)
            padding = -start % ALIGNMENT
            entry.extra = struct.pack("<2sH", b"FB", padding) + bytes(padding)
            made.writestr(entry, data)
