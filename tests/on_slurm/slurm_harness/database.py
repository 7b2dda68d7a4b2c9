"""A private MariaDB for slurmdbd, from a data directory that is initialised once for a user and machine.

Initialising one takes 5 to 10 s, unpacking one 0.1 s; so the initialised directory, with slurmdbd's tables
and the cluster in it, is kept as ``$XDG_CACHE_HOME/ecm-cluster/test-slurmdbd-<versions>.tar`` (30 MB).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from .config import user_name


def cache_file(run: Callable[..., subprocess.CompletedProcess]) -> Path | None:
    """Where the data directory is kept, or None where this user has no folder to keep it in."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ecm-cluster"
    try:
        base.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    versions = [_number(run(program, "-V").stdout) for program in ("sacctmgr", "mariadbd")]
    return base / f"test-slurmdbd-{'-'.join(versions)}.tar"


def _number(answer: str) -> str:
    """The version in an answer like ``slurm-wlm 22.05.8`` or ``mariadbd  Ver 10.11.6-MariaDB for ...``."""
    return next(word for word in answer.split() if word[0].isdigit()).replace("/", "_")


def unpack(folder: Path, cache: Path | None) -> bool:
    """Fill ``folder/db`` from the cache; False, with ``db`` empty, when there is none."""
    (folder / "db").mkdir(mode=0o700)
    if cache is None or not cache.exists():
        return False
    subprocess.run(["tar", "-C", str(folder / "db"), "-xf", str(cache)], check=True, timeout=120)
    return True


def keep(folder: Path, cache: Path) -> None:
    """Pack ``folder/db``, whose server must have been shut down cleanly; several may do so at once."""
    partial = cache.with_name(f".{cache.name}.{os.getpid()}")
    try:
        words = ["tar", "--sparse", "-C", str(folder / "db"), "-cf", str(partial), "."]
        subprocess.run(words, check=True, timeout=120)
        os.replace(partial, cache)
    finally:
        partial.unlink(missing_ok=True)


def initialise(folder: Path, env: Mapping[str, str]) -> None:
    """Make MariaDB's own tables in ``folder/db``."""
    words = ["mariadb-install-db", f"--defaults-file={folder}/etc/my.cnf", "--skip-test-db"]
    words += ["--auth-root-authentication-method=socket", f"--auth-root-socket-user={user_name()}"]
    with open(folder / "log" / "mariadb-install-db.log", "w") as log:
        none = subprocess.DEVNULL
        subprocess.run(words, env=env, stdin=none, stdout=log, stderr=log, check=True, timeout=300)


def client_options(folder: Path) -> list[str]:
    """How MariaDB's commands reach the server of this folder."""
    return ["--no-defaults", f"--socket={folder}/db/s", f"--user={user_name()}"]


def create(folder: Path, run: Callable[..., object]) -> None:
    """Make slurmdbd's empty database in a running server."""
    run("mariadb", *client_options(folder), "--execute=CREATE DATABASE slurm_acct")
