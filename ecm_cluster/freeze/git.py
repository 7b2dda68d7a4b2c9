"""What git says about code that is copied into a run: for the record, and never a reason to fail."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 5.0  # of a huge checkout on a slow file system


def state(folder: Path, names: list[str]) -> dict[str, Any]:
    """Commit, and whether the entries ``names`` of a folder differ from it or hold files it does not know.

    Returns:
        ``{"commit": <hex>, "dirty": <bool>}``; both None without git, outside a checkout, or where the
        checkout ignores them, such as an environment within it; commit alone None before the first commit.
    """
    unknown = {"commit": None, "dirty": None}
    status = _git(folder, "status", "--porcelain=v2", "--branch", "--", *names)
    if status is None:
        return unknown
    lines = status.splitlines()
    dirty = any(not line.startswith("#") for line in lines)
    if not dirty and _git(folder, "ls-files", "--error-unmatch", "--", *names) is None:
        return unknown
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), "")
    return {"commit": commit if commit.isalnum() else None, "dirty": dirty}


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command in a folder, None if it fails."""
    # a git hook sets GIT_DIR and its like, which point elsewhere; no optional locks: others may be committing
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env.update(GIT_OPTIONAL_LOCKS="0", LC_ALL="C")
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], env=env, stdin=subprocess.DEVNULL,
                              capture_output=True, encoding="utf-8", errors="replace", timeout=TIMEOUT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
