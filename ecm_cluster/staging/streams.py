"""Many blocks at once: threads that each read, check and write one block of a file at a time.

The system calls run without the interpreter's lock, and so the latency of shared storage is waited for in parallel. A
block moves in pieces that stay in the processor's cache from the read over the checksum to the write.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Tuple, TypeVar

from ..base.errors import Failed
from ..base.reading import Unreadable, open_regular
from ..pack.manifest import BLOCK, PackedFile

PIECE = 1 << 20  # bytes: fits into the processor's cache
TICK = 0.2  # seconds between two reports of progress
Task = Tuple[PackedFile, int]  # a block
T = TypeVar("T")


class Stream:
    """What one thread has to itself: a buffer for a block, and the file that it reads."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, BLOCK)
        self.buffer = memoryview(self._memory)
        self._path: Path | None = None
        self._handle = -1

    def open(self, path: Path) -> int:
        """The file, opened once as long as this thread reads no other."""
        if path != self._path:
            self.close()
            self._handle = open_regular(path)
            self._path = path
        return self._handle

    def close(self) -> None:
        if self._path is not None:
            os.close(self._handle)
            self._path = None

    def carry(self, file: PackedFile, block: int, source: Path, target: int | None = None) -> bool:
        """Read a block, and write it where it belongs as it arrives; whether it was complete and its checksum right.

        Args:
            source: A copy of ``file``.
            target: Open file; None: the block is only checked.

        Raises:
            ReadError: It cannot be read.
            OSError: It cannot be written.
        """
        import xxhash

        offset, length = file.span(block)
        found = xxhash.xxh3_64()
        with reading():
            handle = self.open(source)
            # all of it at once: a network file system then has its requests under way side by side
            os.posix_fadvise(handle, offset, length, os.POSIX_FADV_WILLNEED)
        for at in range(0, length, PIECE):
            piece = self.buffer[:min(PIECE, length - at)]
            with reading():
                whole = read_all(handle, piece, offset + at)
            if not whole:
                return False
            found.update(piece)
            if target is not None:
                write_all(target, piece, offset + at)
        return found.intdigest() == file.blocks[block]


class ReadError(Exception):
    """The source of a copy cannot be read."""


class reading(contextlib.AbstractContextManager):  # noqa: N801  (reads as a statement)
    """Tells errors of reading from those of writing."""

    def __exit__(self, kind: Any, error: BaseException | None, *_: object) -> None:
        if isinstance(error, (OSError, Unreadable)):
            raise ReadError(getattr(error, "strerror", None) or str(error)) from error


def read_all(handle: int, buffer: memoryview, offset: int) -> bool:
    """Fill a buffer from a file; whether the file was long enough."""
    while buffer.nbytes:
        count = os.preadv(handle, [buffer], offset)
        if not count:
            return False
        buffer, offset = buffer[count:], offset + count
    return True


def write_all(handle: int, buffer: memoryview, offset: int) -> None:
    """Write a buffer into a file."""
    while buffer.nbytes:
        count = os.pwrite(handle, buffer, offset)
        buffer, offset = buffer[count:], offset + count


def in_parallel(tasks: Iterable[T], work: Callable[[T, Stream], None], threads: int,
                tick: Callable[[], None] = lambda: None) -> None:
    """Do every task in one of several threads, and call ``tick`` in this one about five times a second, and at the end.

    Where the system gives no more threads, or no more memory for their buffers, those that there are do it all.

    Raises:
        Failed: A task was not done.
        BaseException: The first exception of a task; it ends the other threads after the block that they are at.
    """
    every = list(tasks)
    todo = iter(every)  # shared: one step of a list's iterator is atomic
    failed: list[BaseException] = []
    unable: list[Exception] = []  # why a thread did nothing
    crew: list[threading.Thread] = []

    def run() -> None:
        try:
            stream = Stream()
        except Exception as error:
            unable.append(error)
            return
        with contextlib.closing(stream):
            try:
                for task in todo:
                    if failed:
                        return
                    work(task, stream)
            except BaseException as error:
                failed.append(error)

    try:
        _start(run, min(threads, len(every)), crew, unable)
        for thread in crew:
            while thread.is_alive():
                thread.join(TICK)
                tick()
    except BaseException as error:
        failed.append(error)
    for thread in crew:
        thread.join()
    if failed:
        raise failed[0]
    if next(todo, None) is not None:
        raise Failed(f"threads: none could read a block ({unable[0]}); run it again with more memory, a higher limit "
                     "of processes, or fewer --threads")
    tick()


def _start(run: Callable[[], None], threads: int, crew: list[threading.Thread], unable: list[Exception]) -> None:
    for n in range(threads):
        thread = threading.Thread(target=run, name=f"stage-{n}", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:  # the limit of processes, or of memory
            unable.append(error)
            return
        crew.append(thread)
