"""Writing files that must survive a crash: temporary file, fsync, rename, fsync of the directory.

Every step is a kill point, see :mod:`ecm_cluster.base.faults`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from .errors import naming
from .faults import KILL_ENV, STOP_ENV, TAKEN, kill_point
from .reading import open_regular, read_json

__all__ = ["KILL_ENV", "STOP_ENV", "TAKEN", "Digesting", "age", "create_exclusive", "digest", "digest_text",
           "fsync_dir", "kill_point", "locked", "naming", "private_file", "read_json", "replacing", "server_time",
           "write_bytes", "write_json", "write_text"]

TMP_MARK = ".tmp-"
NOTICE_SECONDS = 2.0  # of waiting for a lock before the user is informed; most are held for less


def fsync_dir(folder: str | os.PathLike) -> None:
    """Make a rename or a new name in ``folder`` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def replacing(path: str | os.PathLike, mode: str = "wb", private: bool = False,
              durable: bool = True) -> Iterator[IO[Any]]:
    """Open a temporary file that atomically replaces ``path``, durably, when the block ends.

    If the block raises, ``path`` is unchanged and the temporary file is removed. A kill leaves at most a file with
    ``.tmp-`` in its name, which no reader looks at.

    Args:
        private: Only the owner can read the file, regardless of the umask, from the first byte on.
        durable: False: do not wait for the disk; after a power failure the file may be empty.
    """
    target = Path(path)
    # a unique name, created with "x": no other writer may share the file, no other user may have put a link there
    tmp = target.with_name(f".{target.name}{TMP_MARK}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with naming(target, tmp), open(tmp, mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8",
                                  opener=_private if private else None) as handle:
            yield handle
            kill_point("after-data", target)
            handle.flush()
            kill_point("before-fsync", target)
            # before the rename: after a power failure the name could stand for an empty file
            if durable:
                os.fsync(handle.fileno())
        kill_point("before-rename", target)
        with naming(target, tmp):
            os.replace(tmp, target)
        kill_point("after-rename", target)
        if durable:
            fsync_dir(target.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(tmp)
        raise


def private_file(path: str | os.PathLike) -> None:
    """Create an empty lock file that only its owner can open: any process that can open a file can lock it.

    An existing file is left unchanged.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))


@contextlib.contextmanager
def locked(path: str | os.PathLike, patience: float = 10.0, waiting: Callable[[], None] | None = None) -> Iterator[int]:
    """Lock an existing file for as long as the yielded descriptor is open in any process.

    The kernel releases the lock of a process that dies. A child that inherits the descriptor keeps the lock, even if
    this process dies first.

    Args:
        patience: Seconds to wait for another process.
        waiting: Called once, after two seconds of waiting.

    Raises:
        BlockingIOError: Another process held the lock all the time.
    """
    # opened for writing, as NFS implements flock by byte-range locks, which need it; nothing is ever written
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        began = time.monotonic()
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                passed = time.monotonic() - began
                if passed >= patience:
                    raise
                if waiting is not None and passed > NOTICE_SECONDS:
                    waiting()
                    waiting = None
            except OSError:
                break  # a file system without locks: proceed as if there were no other process
            # polled, as a flock that waits has no time limit
            time.sleep(0.05)
        yield handle
    finally:
        os.close(handle)


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Atomically replace ``path`` by ``data``."""
    with replacing(path) as handle:
        handle.write(data)


def write_text(path: str | os.PathLike, text: str, private: bool = False) -> None:
    """Atomically replace ``path`` by ``text`` (UTF-8); see :func:`replacing`."""
    with replacing(path, private=private) as handle:
        handle.write(text.encode())


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL | os.O_NOFOLLOW, 0o600)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Atomically replace ``path`` by ``value`` as indented JSON."""
    write_text(path, json.dumps(value, indent=1, sort_keys=False) + "\n")


def create_exclusive(path: str | os.PathLike, text: str) -> bool:
    """Create ``path`` with ``text`` if it does not exist; of several callers on any host, exactly one succeeds.

    link(2) is atomic on NFS too, where O_EXCL was not always, and the file appears with its whole content. If the reply
    is lost, NFS sends the request again and gets EEXIST, which must count as success.
    """
    target = Path(path)
    tmp = target.with_name(f".{target.name}{TMP_MARK}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with naming(target, tmp), open(tmp, "x", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        kill_point("before-link", target)
        try:
            os.link(tmp, target)
        except OSError as error:
            if not _is_linked(tmp, target):
                if isinstance(error, FileExistsError):
                    return False
                raise
        fsync_dir(target.parent)
        return True
    finally:
        with contextlib.suppress(OSError):
            os.unlink(tmp)


def _is_linked(tmp: Path, target: Path) -> bool:
    """Whether ``target`` is another name of ``tmp``; opening the files makes an NFS client ask the server."""
    with open(tmp, "rb") as handle:
        ours = os.fstat(handle.fileno())
    with contextlib.suppress(OSError), open(target, "rb") as handle:
        return os.path.samestat(ours, os.fstat(handle.fileno()))
    return ours.st_nlink > 1


def server_time(folder: Path) -> float:
    """The time of the file server that holds ``folder``, read from the timestamp of a file that is changed there."""
    path = folder / f".{TMP_MARK}{os.getpid()}-{secrets.token_hex(4)}"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        os.utime(handle)  # to the server's "now"; NFS may use the timestamps of an exclusive creation for its verifier
        return os.fstat(handle).st_mtime
    finally:
        os.close(handle)
        os.unlink(path)


def age(path: str | os.PathLike) -> float | None:
    """Seconds since a file was written, by the file server's clock only; None if that is unknown."""
    with contextlib.suppress(OSError):
        now = server_time(Path(path).parent)
        with open(path, "rb") as handle:  # opened, as an NFS client answers a bare stat from its cache
            return max(0.0, now - os.fstat(handle.fileno()).st_mtime)
    return None


class Digesting:
    """Counts and digests what is written to it, and passes that on to a binary file, if it has one."""

    def __init__(self, handle: IO[bytes] | None = None) -> None:
        self._handle, self._sha, self.size = handle, hashlib.sha256(), 0

    def write(self, data: Any, /) -> int:
        """``data``: anything with a contiguous buffer; returns its length in bytes."""
        view = memoryview(data).cast("B")
        if self._handle is not None:
            self._handle.write(view)
        self._sha.update(view)
        self.size += len(view)
        return len(view)

    def flush(self) -> None:
        if self._handle is not None:
            self._handle.flush()

    @property
    def digest(self) -> str:
        return f"sha256:{self._sha.hexdigest()}"


def digest(path: str | os.PathLike) -> str:
    """``sha256:<hex>`` of the content of a regular file."""
    sha = hashlib.sha256()
    with os.fdopen(open_regular(path), "rb") as handle:
        while block := handle.read(1 << 22):  # few round trips to shared storage, and little memory
            sha.update(block)
    return f"sha256:{sha.hexdigest()}"


def digest_text(text: str) -> str:
    """``sha256:<hex>`` of a string (UTF-8)."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
