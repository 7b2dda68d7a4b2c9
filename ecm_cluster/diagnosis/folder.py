"""Tests a directory for the operations that runs rely on: writing, exclusive creation, renaming, locks, free space.

Run as ``python -m ecm_cluster.diagnosis.folder NAME PATH`` in a process of its own, since a process that accesses a
dead file server hangs; prints findings as JSON.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ..base import files, folders, owners
from ..base.disk import Filesystem, filesystem
from ..base.units import size_text
from .finding import Finding, carried_out, fails, ok, warning

MARK = ".ecm-cluster-doctor-"  # prefix of the doctor's temporary directories
ENOUGH_BYTES, ENOUGH_FILES = 5 << 30, 10_000  # a few checkpoints; the files of a few runs
# a cache on slow storage may take minutes to count: then the report says "more than"
CACHES, COUNTING_SECONDS = ("weights", "annotations"), 2.0
CLOCK_SECONDS = 5.0  # difference of clocks above which the age of a heartbeat is misleading
_NOT_WRITABLE = ("permission denied", "use your own directory, or ask for write permission")
_NO_LOCKS = ("files cannot be locked", "have it mounted with locks, or use another file system")
REASONS = {
    errno.ENOSPC: ("no space left", "delete files there (`python -m ecm_cluster.clean`), or use another directory"),
    errno.EDQUOT: ("quota exceeded", "delete files there, or use another directory"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), _NOT_WRITABLE),
    errno.EROFS: ("it is mounted read-only", "use another directory"),
    **dict.fromkeys((errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS), _NO_LOCKS),
    errno.ESTALE: ("the file server no longer has it (stale file handle)", "tell the administrator"),
}
ELSEWHERE = {"runs": "--runs-dir", "weights": "$ECM_CLUSTER_WEIGHTS", "annotations": "$ECM_CLUSTER_ANNOTATIONS",
             "scratch": "--scratch"}  # the setting for another directory


def check(name: str, path: Path, group: str = "folder") -> Iterator[Finding]:
    """The findings about a directory, or about its closest parent if it does not exist yet."""
    key, there = f"{group}.{name}", path
    while not os.path.lexists(there):  # also where it may not be accessed
        there = there.parent
    if not there.is_dir():
        yield fails(key, f"{there} is not a directory", f"give another one with {ELSEWHERE[name]}")
        return
    said = str(path) if there == path else f"{path} (does not exist yet; tested in {there})"
    disk = filesystem(there)
    try:
        skew = _tried(there)
    except BlockingIOError:
        yield fails(key, f"{said}: a file just created by this process is locked by another one",
                    "tell the administrator")
        return
    except OSError as error:
        reason, remedy = REASONS.get(error.errno or 0, (error.strerror or str(error), "use another directory"))
        code = errno.errorcode.get(error.errno or 0, str(error.errno))
        yield fails(key, f"{said} on {disk.kind}: {reason} ({code})", f"{remedy} ({ELSEWHERE[name]})")
        return
    except UnreliableDirectory as broken:
        yield fails(key, f"{said} on {disk.kind}: {broken}", f"use another file system ({ELSEWHERE[name]})")
        return
    yield ok(key, f"{said} on {disk.kind or 'an unknown file system'}: writing, renaming and locking work")
    if disk.in_memory and name != "scratch":
        yield warning(f"{key}.memory", f"{there} is {disk.kind} in this machine's memory: other machines cannot access "
                      "it", f"give another directory with {ELSEWHERE[name]}")
    changed = list(changed_by_others(there))
    if changed:
        yield warning(f"{key}.others", f"{'; '.join(changed)}: others can replace your code and data there",
                      f"use your own directory ({ELSEWHERE[name]}), or have its sticky bit set (chmod +t)")
    yield from room(f"{key}.room", there, disk)
    if name in CACHES and there == path:
        yield ok(f"{key}.size", held(path))
    if abs(skew) > CLOCK_SECONDS:
        yield warning(f"{key}.clock", f"the file server's clock differs from this machine's by {skew:+.0f} s",
                      "synchronise both (NTP)")


def changed_by_others(folder: Path) -> Iterator[str]:
    """Which users other than root and this one can replace files in a directory, by which part of its path."""
    folder = folder.resolve()
    for above in (folder, *folder.parents):
        there = above.stat()
        if there.st_uid not in (0, os.geteuid()):
            yield f"{above} belongs to {owners.name_of(there.st_uid)}"
        elif there.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not there.st_mode & stat.S_ISVTX:
            who = "everybody" if there.st_mode & stat.S_IWOTH else owners.group_of(there.st_gid)
            if who:
                yield f"{above} is writable by {who}"


class UnreliableDirectory(Exception):
    """The directory lacks a guarantee that runs rely on."""


def _tried(folder: Path) -> float:
    """Test all operations in a temporary directory; returns the file server's clock minus this machine's, in seconds.

    Raises:
        OSError: An operation fails.
        UnreliableDirectory: An operation succeeds that must fail.
    """
    folders.remove_stale(folder, MARK)
    own = Path(os.path.join(folder, f"{MARK}{os.getpid()}-{time.time_ns()}"))
    own.mkdir()
    try:
        files.write_bytes(own / "data", os.urandom(1 << 20))
        if not files.create_exclusive(own / "once", "1") or files.create_exclusive(own / "once", "2"):
            raise UnreliableDirectory("exclusive creation of a file succeeds twice")
        with files.locked(own / "once"):
            if not kept_out(own / "once"):
                raise UnreliableDirectory("two processes can hold the same lock")
        before = time.time()
        return files.server_time(own) - before
    finally:
        shutil.rmtree(own, ignore_errors=True)


def kept_out(path: Path) -> bool:
    """Whether a lock that is held already keeps this one out, on which :func:`ecm_cluster.base.files.locked` relies."""
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def held(folder: Path) -> str:
    """The size of a cache, as far as it can be counted in a short time."""
    end, size, count = time.monotonic() + COUNTING_SECONDS, 0, 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                size, count = size + os.lstat(os.path.join(parent, name)).st_size, count + 1
            if time.monotonic() > end:
                return f"it holds more than {size_text(size)} in {count:,} files"
    return f"it holds {size_text(size)} in {count:,} file(s)"


def room(name: str, folder: Path, disk: Filesystem) -> Iterator[Finding]:
    """Free bytes and files."""
    held = os.statvfs(folder)
    text = f"{size_text(disk.free)} of {size_text(disk.total)} free"
    left = held.f_favail if held.f_files else None  # some file systems do not count files
    if left is not None:
        text += f", {left:,} free inodes"
    if disk.free < ENOUGH_BYTES or (left is not None and left < ENOUGH_FILES):
        yield warning(name, text, f"free some space: a run needs {size_text(ENOUGH_BYTES)} and {ENOUGH_FILES:,} files")
    else:
        yield ok(name, text)


if __name__ == "__main__":
    name, path = sys.argv[1], Path(sys.argv[2])
    print(json.dumps([found.as_dict() for found in carried_out(f"folder.{name}", lambda: check(name, path))]))
