"""Finding runs: by path, name or pattern, or all of them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from ..base import fileserver
from ..base.errors import UserError
from .run import Run


def find(path: str, runs_dir: Path) -> Run:
    """The run at a path, or with this name under ``runs_dir``.

    Raises:
        UserError: There is no such run.
    """
    for candidate in (Path(path), runs_dir / path):
        if _is_run(candidate):
            return Run(os.path.realpath(candidate))
    raise UserError(f"RUN: {path!r} is neither a run directory nor the name of one under {runs_dir}; "
                    "`python -m ecm_cluster.status` lists all runs")


def find_all(words: Sequence[str], runs_dir: Path) -> list[Run]:
    """The runs that these words stand for, each once, in their order.

    Args:
        words: Names, paths, and shell patterns of names such as ``exp-*``, also below another directory.

    Raises:
        UserError: A word stands for no run.
    """
    found: dict[str, Run] = {}
    for word in words:
        for run in _matching(word, runs_dir) or [find(word, runs_dir)]:
            found.setdefault(os.path.realpath(run.path), run)
    return list(found.values())


def is_pattern(word: str, runs_dir: Path) -> bool:
    """Whether a word is a shell pattern, not the name of a run: brackets are valid in names."""
    return bool(set(word) & set("*?[")) and not any(_is_run(folder) for folder in (Path(word), runs_dir / word))


def _matching(word: str, runs_dir: Path) -> list[Run]:
    if not is_pattern(word, runs_dir):
        return []
    folder, pattern = os.path.split(word)
    found = list_runs(Path(folder) if folder else runs_dir, pattern)
    if not found:
        raise UserError(f"RUN: no run matches {word!r} under {folder or runs_dir}; `python -m ecm_cluster.status` "
                        "lists all runs")
    return found


def next_name(runs_dir: Path, stem: str) -> str:
    """The first name with a number that is still free."""
    names = (f"{stem}-{number:03d}" for number in itertools.count(1))
    return next(name for name in names if not (runs_dir / name).exists())


def _is_run(folder: Path) -> bool:
    """Whether it contains run.json, readable or not; a directory that cannot be accessed may be a run."""
    try:
        os.lstat(Run(folder).run_file)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True


def list_runs(runs_dir: Path, pattern: str = "*") -> list[Run]:
    """The runs directly under ``runs_dir`` whose names match, oldest submission first, unreadable ones before them."""
    if not os.path.isdir(runs_dir):
        return []

    def found(name: str) -> tuple[float, str, Run] | None:
        run = Run(runs_dir / name)
        if not _is_run(run.path):
            return None
        try:
            return run.spec.submitted, name, run
        except UserError:
            return 0.0, name, run

    try:
        names = [name for name in os.listdir(runs_dir) if fnmatchcase(name, pattern)]
        several = fileserver.each(found, names)
    except OSError as error:
        raise UserError(f"runs-dir: {runs_dir} cannot be read ({error.strerror}); use another --runs-dir") from None
    return [run for _, _, run in sorted(filter(None, several), key=lambda each: each[:2])]
