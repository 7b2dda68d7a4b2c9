"""Finding runs: one by its path or name, or all of them."""

from __future__ import annotations

import os
from pathlib import Path

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


def _is_run(folder: Path) -> bool:
    """Whether it contains run.json, readable or not; a directory that cannot be accessed may be a run."""
    try:
        os.lstat(Run(folder).run_file)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True


def list_runs(runs_dir: Path) -> list[Run]:
    """All runs directly under ``runs_dir``, oldest submission first; those that cannot be read come before them."""
    if not os.path.isdir(runs_dir):
        return []

    def submitted(run: Run) -> float:
        try:
            return run.spec.submitted
        except UserError:
            return 0.0

    try:
        runs = [Run(p) for p in runs_dir.iterdir() if _is_run(p)]
    except OSError as error:
        raise UserError(f"runs-dir: {runs_dir} cannot be read ({error.strerror}); use another --runs-dir") from None
    return sorted(runs, key=lambda r: (submitted(r), r.name))
