"""Proof that a folder is shared: one side leaves marks, another machine must find them, and be kept out by its lock.

The login node lays out the marks and holds the lock; each node looks; the login node reads what the nodes have left.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

from ..base import files, folders
from .finding import Finding, fails, ok, warning
from .folder import CLOCK_SECONDS, ELSEWHERE, MARK, REASONS, kept_out

TOKEN, TAKEN, NODES = "token", "taken", "node"
NO_RELIANCE = "a run relies on it: use a file system with locks for all nodes (not `nolock` or `local_lock`)"


@contextlib.contextmanager
def laid_out(folder: Path, token: str) -> Iterator[Path]:
    """A folder of marks in ``folder``, whose lock is held until the block ends; then all of it is gone.

    Raises:
        OSError: It cannot be written or locked.
    """
    with folders.temporary(folder, MARK, token) as own:  # its job's pickle and script are stored in it, too
        for name in (TOKEN, TAKEN):
            files.write_text(own / name, token)
        yield own


def marks(folder: Path, token: str) -> Path:
    return Path(os.path.join(folder, MARK + token))


def look(name: str, folder: Path, token: str, node: str) -> Iterator[Finding]:
    """What this node sees of the marks, as findings; it leaves its own mark behind."""
    own, key, other = marks(folder, token), f"node.folder.{name}", f"name another folder with {ELSEWHERE[name]}"
    try:
        os.listdir(folder)  # an NFS client looks for new names
        if (own / TOKEN).read_text(encoding="utf-8") != token:
            yield fails(key, f"{folder}: another file than the login node's is seen", other)
            return
    except FileNotFoundError:
        yield fails(key, f"{folder} is not shared: what the login node has just written there is not seen", other)
        return
    except OSError as error:
        yield fails(key, f"{folder} cannot be read: {error.strerror}", other)
        return
    faults = []
    try:
        if files.create_exclusive(own / TAKEN, node):
            faults.append(fails(key, f"{folder}: an existing file could be created again", NO_RELIANCE))
        if not kept_out(own / folders.LOCK):
            faults.append(fails(f"{key}.lock", f"{folder}: the lock that the login node holds is not seen here",
                                NO_RELIANCE))
        files.write_text(own / f"{NODES}.{node}", token)
        before = time.time()
        skew = files.server_time(own) - before
    except OSError as error:
        reason, remedy = REASONS.get(error.errno or 0, (error.strerror or str(error), other))
        faults.append(fails(key, f"{folder}: {reason} ({errno.errorcode.get(error.errno or 0, '')})", remedy))
    else:
        if abs(skew) > CLOCK_SECONDS:
            faults.append(warning(f"{key}.clock", f"the clock of the file server of {folder} is {skew:+.0f} s against "
                                  "this node's", "have both synchronised (NTP)"))
    yield from faults or [ok(key, f"{folder} is shared, with its locks")]


def answers(own: Path, token: str, nodes: list[str], seconds: float) -> list[str]:
    """The nodes whose marks are not seen here, after waiting for them."""
    end = time.monotonic() + seconds
    while True:
        missing = [node for node in nodes if not _reads(own / f"{NODES}.{node}", token)]
        if not missing or time.monotonic() > end:
            return missing
        time.sleep(0.5)


def _reads(path: Path, token: str) -> bool:
    try:
        os.listdir(path.parent)
        return path.read_text(encoding="utf-8") == token
    except OSError:
        return False
