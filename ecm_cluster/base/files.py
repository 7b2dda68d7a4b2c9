"""Writing what must survive: temporary file, fsync, rename, fsync of the directory.

Every step has a name. A test can kill the process at any of them by setting ``ECM_CLUSTER_KILL_AT`` to
``<name>`` or ``<name>:<substring of the path>``: the process then sends itself SIGKILL there, as a power cut or
an out-of-memory killer would. That holds for every process that inherits the variable, each time it comes there. With
``@<file>`` the file says so instead, and the process that dies takes it away (it becomes ``<file>.taken``): one
process dies once, and a test can name the next point, in the same file, while all others go on.
``ECM_CLUSTER_STOP_AT`` is spelled alike: the process stands still by SIGSTOP, as one on a node that Slurm gave up.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from .reading import naming, open_regular, read_json

__all__ = ["Digesting", "age", "create_exclusive", "digest", "digest_text", "fsync_dir", "kill_point", "locked",
           "naming", "private_file", "read_json", "replacing", "server_time", "sweep", "write_bytes", "write_json",
           "write_private", "write_text"]

KILL_ENV = "ECM_CLUSTER_KILL_AT"
STOP_ENV = "ECM_CLUSTER_STOP_AT"
TAKEN = ".taken"
TMP_MARK = ".tmp-"
TELL_SECONDS = 2.0  # that a process waits for a lock before it says so


def kill_point(name: str, path: str | os.PathLike = "") -> None:
    """Die here by SIGKILL, or stand still by SIGSTOP, if a test asked for it; otherwise nothing."""
    for variable, number in ((STOP_ENV, signal.SIGSTOP), (KILL_ENV, signal.SIGKILL)):
        asked = os.environ.get(variable)
        if asked and _meant(asked, name, str(path)):
            os.kill(os.getpid(), number)


def _meant(asked: str, name: str, path: str) -> bool:
    if asked.startswith("@"):
        order = Path(asked[1:])
        try:
            # of several that come here at once, the one that can rename it
            return _meant(order.read_text(encoding="utf-8"), name, path) and bool(order.rename(f"{order}{TAKEN}"))
        except OSError:
            return False
    point, _, part = asked.partition(":")
    return point == name and part in path


def fsync_dir(folder: str | os.PathLike) -> None:
    """Make a rename in ``folder`` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def replacing(path: str | os.PathLike, mode: str = "wb", private: bool = False) -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` which takes its place, whole and durable, when the block ends.

    When the block raises, ``path`` is as it was and the temporary file is gone. A kill leaves at most a file
    whose name holds ``.tmp-``, which no reader looks at.

    Args:
        private: Only the owner can read the file, whatever the umask, from its first byte on.
    """
    target = Path(path)
    # a name of its own for each writer: two that write at once must not share a half-written file
    tmp = target.with_name(f".{target.name}{TMP_MARK}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        # never what another user has put there
        with naming(target, tmp), open(tmp, mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8",
                                  opener=_private if private else None) as handle:
            yield handle
            kill_point("after-data", target)
            handle.flush()
            kill_point("before-fsync", target)
            os.fsync(handle.fileno())
        kill_point("before-rename", target)
        with naming(target, tmp):
            os.replace(tmp, target)
        kill_point("after-rename", target)
        fsync_dir(target.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(tmp)
        raise


def sweep(parent: Path, prefix: str, lock: str, older: float = 86400.0) -> None:
    """Delete folders that a killed process of this user has left behind.

    Args:
        prefix: With which their names begin.
        lock: Name of the file in each whose lock its process holds, as long as it lives.
        older: Seconds since anything was written to it.
    """
    for path in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            there = path.lstat()
            if not stat.S_ISDIR(there.st_mode) or there.st_uid != os.geteuid() or time.time() - there.st_mtime < older:
                continue
            with locked(path / lock, patience=0.0) if (path / lock).exists() else contextlib.nullcontext():
                shutil.rmtree(path, ignore_errors=True)


def private_file(path: str | os.PathLike) -> None:
    """Make an empty file that only its owner can open, to be locked: whoever can open a file can hold its lock.

    One that is there stays as it is.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))


@contextlib.contextmanager
def locked(path: str | os.PathLike, patience: float = 10.0, waiting: Callable[[], None] | None = None) -> Iterator[int]:
    """Hold the lock of a file that exists, as long as the descriptor that is given back is open in any process.

    The kernel takes it back from a process that dies. A child that inherits the descriptor keeps the lock, also when
    this process dies before it.

    Args:
        patience: Seconds to wait for another process.
        waiting: Called once, when another process has held it for two seconds.

    Raises:
        BlockingIOError: Another process held it all the time.
    """
    # opened for writing, since NFS turns flock into a lock of bytes; nothing is ever written through it
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
                if waiting is not None and passed > TELL_SECONDS:
                    waiting()
                    waiting = None
            except OSError:
                break  # a file system without locks: as if there were no other
            time.sleep(0.05)
        yield handle
    finally:
        os.close(handle)


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Replace ``path`` by ``data``, whole or not at all."""
    with replacing(path) as handle:
        handle.write(data)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Replace ``path`` by ``text`` (UTF-8), whole or not at all."""
    write_bytes(path, text.encode())


def write_private(path: str | os.PathLike, text: str) -> None:
    """Replace ``path`` by ``text`` (UTF-8) that only the owner can read, whole or not at all."""
    with replacing(path, private=True) as handle:
        handle.write(text.encode())


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL | os.O_NOFOLLOW, 0o600)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Replace ``path`` by ``value`` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, sort_keys=False) + "\n")


def create_exclusive(path: str | os.PathLike, text: str) -> bool:
    """Create ``path`` with ``text`` if nothing is there; of several that try, on any host, exactly one succeeds.

    link(2) is atomic on NFS too, where O_EXCL once was not, and it makes the file appear with its whole content. A link
    that was made and whose answer got lost (a retransmission is told EEXIST) counts as made.
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
    """Whether ``target`` is another name of ``tmp``, asked of the file server: opening drops what is cached."""
    with open(tmp, "rb") as handle:
        ours = os.fstat(handle.fileno())
    with contextlib.suppress(OSError), open(target, "rb") as handle:
        return os.path.samestat(ours, os.fstat(handle.fileno()))
    return ours.st_nlink > 1


def server_time(folder: Path) -> float:
    """The clock of the server that holds ``folder``, as it stamps a file that changes there."""
    path = folder / f".{TMP_MARK}{os.getpid()}-{secrets.token_hex(4)}"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        os.utime(handle)  # "now" is the server's; an exclusive creation may keep something else in the time stamp
        return os.fstat(handle).st_mtime
    finally:
        os.close(handle)
        os.unlink(path)


def age(path: str | os.PathLike) -> float | None:
    """Seconds since a file was written, by the clock of the file server alone; None where that cannot be told."""
    try:
        now = server_time(Path(path).parent)
        with open(path, "rb") as handle:  # opened, as an NFS client answers a stat alone from its cache
            return max(0.0, now - os.fstat(handle.fileno()).st_mtime)
    except OSError:
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
        """As :func:`digest` has it."""
        return f"sha256:{self._sha.hexdigest()}"


def digest(path: str | os.PathLike) -> str:
    """``sha256:<hex>`` of a regular file's content, read in blocks of 4 MiB."""
    sha = hashlib.sha256()
    with os.fdopen(open_regular(path), "rb") as handle:
        while block := handle.read(1 << 22):
            sha.update(block)
    return f"sha256:{sha.hexdigest()}"


def digest_text(text: str) -> str:
    """``sha256:<hex>`` of a string (UTF-8)."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
