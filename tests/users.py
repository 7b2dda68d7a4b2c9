"""Two users of one machine: programs run under made-up uids, which have no privileges and no passwd entry.

Only root can become another user. Where a folder above the interpreter or the checkout is closed to others (a home
directory, say), the program sees a mount namespace in which just those two can be reached.
"""

from __future__ import annotations

import atexit
import codecs
import contextlib
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
VICTIM, ATTACKER = 61001, 61002  # no user of a Linux distribution has these

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run programs as two other users")


def _closed(path: Path) -> Path | None:
    """The topmost folder on the way to ``path`` that others cannot pass."""
    folders = [p for p in reversed([path, *path.parents]) if not p.stat().st_mode & stat.S_IXOTH]
    return folders[0] if folders else None


def _opening() -> str:
    """Shell lines that make interpreter and checkout reachable, in the mount namespace of this process alone."""
    needed = dict.fromkeys(Path(p).resolve() for p in (sys.base_prefix, sys.prefix, ROOT))
    by_closed: dict[Path, list[Path]] = {}
    for path in needed:
        closed = _closed(path)
        if closed is not None:
            by_closed.setdefault(closed, []).append(path)
    lines = []
    for closed, paths in by_closed.items():
        held = [f"/proc/self/fd/{20 + n}" for n in range(len(paths))]
        lines += [f"exec {20 + n}< {shlex.quote(str(path))}" for n, path in enumerate(paths)]
        lines.append(f"mount -t tmpfs -o mode=755 none {shlex.quote(str(closed))}")
        for source, path in zip(held, map(str, paths)):
            lines.append(f"mkdir -p {shlex.quote(path)} && mount -c --bind {source} {shlex.quote(path)}")
        lines += [f"exec {20 + n}<&-" for n in range(len(paths))]
    return "\n".join(lines)


def command_as(uid: int, *command: str | os.PathLike) -> list[str]:
    """The command line that runs ``command`` as the user ``uid``, in the group of the same number and in no other."""
    opening = _opening()
    script = (f"set -e\n{opening}\nexec setpriv --reuid {uid} --regid {uid} --clear-groups --inh-caps=-all "
              '--bounding-set=-all --no-new-privs -- "$@"')
    return [*(["unshare", "--mount"] if opening else []), "bash", "-c", script, "bash", *map(os.fspath, command)]


def environment(home: Path, **more: str) -> dict[str, str]:
    """What a login of such a user holds: the home is the caller's to make."""
    kept = {k: v for k, v in os.environ.items() if k.startswith("ECM_CLUSTER_") or k == "LANG"}
    return {**kept, "PATH": f"{Path(sys.prefix, 'bin')}:/usr/local/bin:/usr/bin:/bin", "HOME": str(home),
            "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **more}


def run_as(uid: int, *command: str | os.PathLike, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run a command as another user to its end; its output is text."""
    kwargs.setdefault("timeout", 120)
    return subprocess.run(command_as(uid, *command), capture_output=True, text=True, **kwargs)


@contextlib.contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """What is called in this process meanwhile has the rights of another user: quicker than a program of its own.

    Modules that are imported meanwhile are read with those rights, too, so import them before.
    """
    for name in ("utf-8-sig", "unicode_escape"):
        codecs.lookup(name)  # a module, too
    group, groups = os.getegid(), os.getgroups()
    os.setgroups([])
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def shared_folder() -> Path:
    """A folder that everybody may write to, like scratch, until this process ends.

    It is not below pytest's temporary folders: each pytest that starts closes those to others, while this one runs too.
    """
    base = Path(tempfile.mkdtemp(prefix="ecm-cluster-shared-"))
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    base.chmod(0o755)
    folder = base / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def home_of(uid: int, parent: Path) -> Path:
    """A new home directory of the user, 0755, as on a cluster where colleagues look into each other's folders."""
    home = parent / f"home-{uid}"
    home.mkdir()
    home.chmod(0o755)
    os.chown(home, uid, uid)
    return home


def given_to(uid: int, folder: Path) -> Path:
    """The folder and all in it as files of a user; links themselves, not what they lead to."""
    for above, folders, names in os.walk(folder):
        for name in (*folders, *names):
            os.lchown(os.path.join(above, name), uid, uid)
    os.chown(folder, uid, uid)
    return folder
