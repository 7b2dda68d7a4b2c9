"""The commands of the README and of the tutorials, as the tests run them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from small import ROOT


def commands(kind: str = "", document: str = "README.md") -> list[str]:
    """The lines of a document's blocks that are marked ``<!-- tested: KIND -->``."""
    text = (ROOT / document).read_text()
    mark = f"tested: {kind}" if kind else "tested"
    blocks = re.findall(rf"<!-- {mark} -->\n```sh\n(.*?)```", text, re.DOTALL)
    assert blocks, f"{document} has no block marked {mark}"
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def write_files(document: str, folder: Path) -> None:
    """Write the files that a document shows in blocks marked ``<!-- file: NAME -->``; the configs come beside them."""
    text = (ROOT / document).read_text()
    for name, body in re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", text, re.DOTALL):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body)
    (folder / "configs").symlink_to(ROOT / "configs")


def run(line: str, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """Run one command of the README in ``cwd`` and return what it printed; it must succeed."""
    words = shlex.split(line)
    assert words[:2] == ["python", "-m"], line
    environ = {**os.environ, **(env or {}), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *words[1:]], cwd=cwd, env=environ, capture_output=True, text=True,
                          check=False, timeout=400)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout
