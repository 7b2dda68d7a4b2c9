"""Paths, pins and lines of progress that the other modules share."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCK = Path(__file__).with_name("requirements.txt")
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ecm-cluster"
TAG = f"cp{sys.version_info[0]}{sys.version_info[1]}"


class SetupError(Exception):
    """Setting up cannot go on; the text is one line with the remedy."""


def say(line: str) -> None:
    print(f"setup: {line}", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Minutes and seconds, as "12:05"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def pinned(name: str) -> str:
    """The version that the lock file pins."""
    found = re.search(rf"^{re.escape(name)}==(\S+)", LOCK.read_text(), re.M)
    assert found, f"{LOCK} does not pin {name}"
    return found.group(1)


def wheelhouse_folder() -> Path | None:
    """The folder in ECM_CLUSTER_WHEELHOUSE.

    Raises:
        SetupError: It is not a folder.
    """
    given = os.environ.get("ECM_CLUSTER_WHEELHOUSE")
    if not given:
        return None
    if not Path(given).is_dir():
        raise SetupError(f"ECM_CLUSTER_WHEELHOUSE: {given} is not a folder; correct it or unset it")
    return Path(given).resolve()
