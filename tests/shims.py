"""A shared library that is preloaded to give a program a wrong clock, or locks that do not work."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCE = Path(__file__).parent / "diagnosis" / "shim.c"


def build(folder: Path) -> Path:
    """Compile it into a folder."""
    made = folder / "shim.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(made), str(SOURCE)], check=True)
    return made
