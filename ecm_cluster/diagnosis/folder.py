"""What a run needs of a folder, tried out: writing, exclusive creation, renaming, locks, room.

Run as ``python -m ecm_cluster.diagnosis.folder NAME PATH`` in a process of its own, since a file server that is gone
blocks the process that asks it; prints findings as JSON.
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

MARK = ".ecm-cluster-doctor-"  # with which the names of the doctor's own folders begin
ENOUGH_BYTES, ENOUGH_FILES = 5 << 30, 10_000  # a few checkpoints; the files of a few runs
CACHES, COUNTING_SECONDS = ("weights", "annotations"), 2.0
CLOCK_SECONDS = 5.0  # that clocks may differ: more, and the age of a heartbeat is no longer what it seems
REASONS = {
    errno.ENOSPC: ("no space is left", "delete something there (`python -m ecm_cluster.clean`), or use another folder"),
    errno.EDQUOT: ("your quota is used up", "delete something there, or use another folder"),
    errno.EACCES: ("it is not writable for you", "use a folder of your own, or ask for the right to write there"),
    errno.EPERM: ("it is not writable for you", "use a folder of your own, or ask for the right to write there"),
    errno.EROFS: ("it is mounted read-only", "use another folder"),
    errno.ENOLCK: ("it cannot be locked", "have it mounted with locks, or use another file system"),
    errno.EOPNOTSUPP: ("it cannot be locked", "have it mounted with locks, or use another file system"),
    errno.ENOSYS: ("it cannot be locked", "have it mounted with locks, or use another file system"),
    errno.ESTALE: ("its file server has lost it (stale file handle)", "tell the administrator"),
}
ELSEWHERE = {"runs": "--runs-dir", "weights": "$ECM_CLUSTER_WEIGHTS", "annotations": "$ECM_CLUSTER_ANNOTATIONS",
             "scratch": "--scratch"}  # what names another one


def check(name: str, path: Path, group: str = "folder") -> Iterator[Finding]:
    """The findings about a folder, or about its nearest parent where it does not exist yet.

    Args:
        name: What it is for.
        group: With which the ids begin.
    """
    key, there = f"{group}.{name}", path
    while not os.path.lexists(there):  # what cannot be looked at is as absent
        there = there.parent
    if not there.is_dir():
        yield fails(key, f"{there} is not a directory", f"name another folder with {ELSEWHERE[name]}")
        return
    said = str(path) if there == path else f"{path} (does not exist yet; tried in {there})"
    disk = filesystem(there)
    try:
        skew = _tried(there)
    except BlockingIOError:
        yield fails(key, f"{said}: a file that this process has just made is locked by another one",
                    "tell the administrator")
        return
    except OSError as error:
        reason, remedy = REASONS.get(error.errno or 0, (error.strerror or str(error), "use another folder"))
        yield fails(key, f"{said} on {disk.kind}: {reason} ({_code(error)})",
                    f"{remedy}; {ELSEWHERE[name]} names another one")
        return
    except NotKept as broken:
        yield fails(key, f"{said} on {disk.kind}: {broken}", f"use another file system; {ELSEWHERE[name]} "
                    "names another folder")
        return
    yield ok(key, f"{said} on {disk.kind or 'an unknown file system'}: written, renamed and locked")
    if disk.in_memory and name != "scratch":
        yield warning(f"{key}.memory", f"{there} is {disk.kind}, memory of this machine: no other machine sees it",
                      f"name another folder with {ELSEWHERE[name]}")
    changed = list(changed_by_others(there))
    if changed:
        yield warning(f"{key}.others", f"{'; '.join(changed)}: who can write there can put other code or data in the "
                      "place of yours", "use a folder of your own, or have it made sticky (chmod +t); "
                      f"{ELSEWHERE[name]} names another one")
    yield from room(f"{key}.room", there, disk)
    if name in CACHES and there == path:
        yield ok(f"{key}.size", held(path))
    if abs(skew) > CLOCK_SECONDS:
        yield warning(f"{key}.clock", f"the clock of its file server is {skew:+.0f} s against this machine's",
                      "have both synchronised (NTP)")


def changed_by_others(folder: Path) -> Iterator[str]:
    """Where on the path to a folder a user besides root and this one can replace what is stored there, and who."""
    folder = folder.resolve()
    for above in (folder, *folder.parents):
        there = above.stat()
        if there.st_uid not in (0, os.geteuid()):
            yield f"{above} belongs to {owners.name_of(there.st_uid)}"
        elif there.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not there.st_mode & stat.S_ISVTX:
            who = "everybody" if there.st_mode & stat.S_IWOTH else owners.group_of(there.st_gid)
            if who:
                yield f"{above} is writable for {who}"


class NotKept(Exception):
    """The folder does not keep a promise that runs rely on."""


def _tried(folder: Path) -> float:
    """Try it all in a folder of its own there; the file server's clock minus this machine's, in seconds.

    Raises:
        OSError: Something cannot be done.
        NotKept: Something can be done that must not.
    """
    folders.remove_stale(folder, MARK)
    own = Path(os.path.join(folder, f"{MARK}{os.getpid()}-{time.time_ns()}"))
    own.mkdir()
    try:
        files.write_bytes(own / "data", os.urandom(1 << 20))
        if not files.create_exclusive(own / "once", "1") or files.create_exclusive(own / "once", "2"):
            raise NotKept("a file that must not exist yet can be made twice")
        locks(own / "once")
        before = time.time()
        return files.server_time(own) - before
    finally:
        shutil.rmtree(own, ignore_errors=True)


def locks(path: Path) -> None:
    """Whether a lock of a file keeps another open file out, as :func:`ecm_cluster.base.files.locked` relies on.

    Raises:
        OSError: It cannot be locked.
        NotKept: Both get the lock.
    """
    with files.locked(path):
        second = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        finally:
            os.close(second)
    raise NotKept("two processes get the same lock")


def held(folder: Path) -> str:
    """What a cache holds, as far as it can be counted in a moment."""
    end, size, count = time.monotonic() + COUNTING_SECONDS, 0, 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                size, count = size + os.lstat(os.path.join(parent, name)).st_size, count + 1
            if time.monotonic() > end:
                return f"it holds more than {size_text(size)} in {count:,} files"
    return f"it holds {size_text(size)} in {count:,} file(s)"


def room(name: str, folder: Path, disk: Filesystem) -> Iterator[Finding]:
    """Bytes and files that are left."""
    held = os.statvfs(folder)
    text = f"{size_text(disk.free)} of {size_text(disk.total)} free"
    left = held.f_favail if held.f_files else None  # some file systems do not count files
    if left is not None:
        text += f", {left:,} files can be made"
    if disk.free < ENOUGH_BYTES or (left is not None and left < ENOUGH_FILES):
        yield warning(name, text, f"make room: a run wants {size_text(ENOUGH_BYTES)} and {ENOUGH_FILES:,} files")
    else:
        yield ok(name, text)


def _code(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error.errno))


if __name__ == "__main__":
    name, path = sys.argv[1], Path(sys.argv[2])
    print(json.dumps([found.as_dict() for found in carried_out(f"folder.{name}", lambda: check(name, path))]))
