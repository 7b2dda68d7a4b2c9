"""Paths, pins and lines of progress that the other modules share."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PINS = Path(__file__).parent / "pins"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ecm-cluster"
TAG = f"cp{sys.version_info[0]}{sys.version_info[1]}"


class SetupError(Exception):
    """Setting up cannot continue; the text is one line with the remedy."""


@dataclass(frozen=True)
class Stack:
    """A set of pinned versions: that of some CUDA release, or that of the work which this package goes back to.

    Attributes:
        lock: The pins.
        nvcc: Pins of nvcc's own packages, where the package index has a compiler of that release.
        mmcv: Version of mmcv-full.
        folder: The environment.
    """

    name: str
    lock: Path
    nvcc: Path | None = None
    mmcv: str = "1.7.2"
    folder: Path = ROOT / ".venv"

    def pinned(self, name: str) -> str:
        """The version that the lock file pins."""
        return _pin(self.lock, re.escape(name))

    @property
    def cuda(self) -> str:
        """CUDA release of its torch, as ``12.8``."""
        return ".".join(_pin(self.lock, r"nvidia-cuda-runtime(?:-cu\d+)?").split(".")[:2])


STACKS = {stack.name: stack for stack in (
    Stack("cuda12", PINS / "requirements.txt"),
    Stack("cuda13", PINS / "cuda13.txt", PINS / "cuda13-nvcc.txt"),
    Stack("original", PINS / "original.txt", mmcv="1.7.0", folder=ROOT / ".venv-original"))}
# an unknown name is refused by stack(), in one line
_CHOSEN = STACKS.get(os.environ.get("ECM_CLUSTER_STACK") or "cuda12", STACKS["cuda12"])
VENV, MMCV = _CHOSEN.folder, _CHOSEN.mmcv
PYTHON = VENV / "bin" / "python"


def stack() -> Stack:
    """The one in ECM_CLUSTER_STACK, which tools/setup sets to that of the existing environment.

    Raises:
        SetupError: There is none of that name.
    """
    name = os.environ.get("ECM_CLUSTER_STACK") or "cuda12"
    if name not in STACKS:
        raise SetupError(f"invalid ECM_CLUSTER_STACK: {name}; expected {', '.join(STACKS)}")
    return STACKS[name]


def _pin(lock: Path, pattern: str) -> str:
    found = re.search(rf"^{pattern}==(\S+)", lock.read_text(), re.M)
    assert found, f"{lock} does not pin {pattern}"
    return found.group(1)


def say(line: str) -> None:
    print(f"setup: {line}", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Minutes and seconds, as "12:05"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def wheelhouse_folder() -> Path | None:
    """The folder in ECM_CLUSTER_WHEELHOUSE.

    Raises:
        SetupError: It is not a folder.
    """
    given = os.environ.get("ECM_CLUSTER_WHEELHOUSE")
    if not given:
        return None
    if not Path(given).is_dir():
        raise SetupError(f"ECM_CLUSTER_WHEELHOUSE: {given} is not a directory; correct it or unset it")
    return Path(given).resolve()
