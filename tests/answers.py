"""Commands that answer with what a real Slurm 22.05 once printed, where the point is what is made of an answer.

What the commands themselves do is tested on a real Slurm, in tests/on_slurm.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

UNREACHABLE = "Unable to contact slurm controller"
TOOLS = ("bash", "cat", "sed", "sleep")


class Answers:
    """A PATH that holds the commands given to it, a few tools, without any Slurm that may be installed."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "slurm-bin"
        self.folder.mkdir()
        for name in TOOLS:
            (self.folder / name).symlink_to(str(shutil.which(name)))
        monkeypatch.setenv("PATH", str(self.folder))

    def __call__(self, **texts: str | None) -> None:
        """Make commands that print these texts, or fail where the text is None."""
        for name, text in texts.items():
            (self.folder / f"{name}.txt").write_text(text or "")
            fails = f"echo '{UNREACHABLE}' >&2\nexit 1\n" if text is None else ""
            self.script(name, f'echo "$0 $*" >> {self.folder}/calls\ncat {self.folder}/{name}.txt\n{fails}')

    def script(self, name: str, lines: str) -> None:
        """Make one command of a few lines of shell."""
        command = self.folder / name
        command.write_text(f"#!/bin/sh\n{lines}")
        command.chmod(0o755)

    def calls(self) -> str:
        """Every call so far, a line each."""
        path = self.folder / "calls"
        return path.read_text() if path.exists() else ""
