"""The README's commands, as the tests run them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from small import ROOT


def commands(kind: str) -> list[str]:
    """The lines of the README's block that is marked ``<!-- tested: KIND -->``."""
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(rf"<!-- tested: {kind} -->\n```sh\n(.*?)```", text, re.DOTALL)
    assert blocks, f"the README has no block marked {kind}"
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def run(line: str, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """Run one command of the README in ``cwd`` and return what it printed; it must succeed."""
    words = shlex.split(line)
    assert words[:2] == ["python", "-m"], line
    environ = {**os.environ, **(env or {}), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *words[1:]], cwd=cwd, env=environ, capture_output=True, text=True,
                          check=False, timeout=400)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout
