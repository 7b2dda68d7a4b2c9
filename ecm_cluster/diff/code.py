"""The code of two runs, file by file."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from ..base.reading import Unreadable, read_bytes
from ..rundir.run import Run

MOST_FILES = 20_000
LARGEST = 1 << 24  # bytes of a file that is compared
LARGEST_SHOWN = 1 << 19  # bytes of a file whose lines are compared


def digest_of(run: Run) -> str | None:
    """Of the code that the run's attempts import now."""
    return (run.overrides().code or run.spec.code).get("digest")


def compare(a: Run, b: Run) -> dict[str, list[str]]:
    """The files that only one of two runs has, and those that differ."""
    one, other = listed(a), listed(b)
    return {"only_a": sorted(one - other), "only_b": sorted(other - one),
            "changed": sorted(name for name in one & other if _content(a, name) != _content(b, name))}


def listed(run: Run) -> set[str]:
    """The files of a run's code, without compiled ones; links are not followed."""
    found: set[str] = set()
    for folder, folders, names in os.walk(run.code_dir):
        folders[:] = [name for name in folders if name != "__pycache__"]
        found.update(os.path.relpath(os.path.join(folder, name), run.code_dir) for name in names)
        if len(found) > MOST_FILES:
            run.note(f"{run.code_dir}: more than {MOST_FILES} files; the others are not compared")
            break
    return found


def _content(run: Run, name: str) -> bytes | None:
    try:
        return read_bytes(Path(run.code_dir, name), LARGEST)
    except (OSError, Unreadable) as error:
        run.note(error)
    return None


def unified(a: Run, b: Run, found: dict[str, list[str]]) -> list[str]:
    """The differences as a patch; of files that are binary, large or unreadable only that they differ."""
    lines: list[str] = []
    for name in sorted({*found["only_a"], *found["only_b"], *found["changed"]}):
        one, other = (b"" if name in found[missing] else _content(run, name)
                      for run, missing in ((a, "only_b"), (b, "only_a")))
        if one is None or other is None or b"\0" in one + other or len(one + other) > 2 * LARGEST_SHOWN:
            lines.append(f"Files a/{name} and b/{name} differ")
            continue
        before, after = (content.decode(errors="replace").splitlines() for content in (one, other))
        lines += difflib.unified_diff(before, after, f"a/{name}", f"b/{name}", lineterm="")
    return lines
