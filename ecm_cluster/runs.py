"""Finding runs: the one that a user means, or all that there are."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import UserError
from .run import Run


def find(path: str, runs_dir: Path) -> Run:
    """The run that a user means by a path or by a bare name under ``runs_dir``.

    Raises:
        UserError: Neither is a run directory.
    """
    for candidate in (Path(path), runs_dir / path):
        if Run(candidate).run_file.exists():
            return Run(candidate.resolve())
    raise UserError(f"RUN: {path!r} is neither a run directory nor the name of one under {runs_dir}; "
                    "`python -m ecm_cluster.status` lists the runs there are")


def list_runs(runs_dir: Path) -> list[Run]:
    """All runs directly under ``runs_dir``, oldest submission first; those that cannot be read come before."""
    if not runs_dir.is_dir():
        return []

    def submitted(run: Run) -> float:
        try:
            return run.spec.submitted
        except (UserError, LookupError, TypeError, ValueError):
            return 0.0

    runs = [Run(p) for p in runs_dir.iterdir() if os.path.exists(Run(p).run_file)]
    return sorted(runs, key=lambda r: (submitted(r), r.name))
