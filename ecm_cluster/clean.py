"""List what a run no longer needs, with sizes, and delete it; an abandoned branch only on request."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from .backends import liveness
from .base import folders
from .base.units import size_text
from .chain import locks
from .console import cli
from .job import job as jobs
from .rundir import checkpoints, retention, runs
from .rundir.run import Run
from .rundir.spec import ResumePoint

EPILOG = """examples:
  python -m ecm_cluster.clean first --dry-run
  python -m ecm_cluster.clean first --abandoned
"""
ABANDONED = "checkpoints of a branch abandoned by `resume --from`"


def parser() -> argparse.ArgumentParser:
    made = cli.Parser(prog="python -m ecm_cluster.clean", description=__doc__, epilog=EPILOG)
    made.add_argument("run", metavar="RUN", help="a run directory, or the name of a run")
    made.add_argument("--runs-dir", default=None, help="directory that holds the runs (default: the site's, else runs)")
    made.add_argument("--abandoned", action="store_true", help=f"also delete {ABANDONED}")
    made.add_argument("--dry-run", action="store_true", help="list what would be deleted, delete nothing")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    runs_dir = folders.absolute(args.runs_dir or jobs.load(None, {}).runs_dir)
    run = runs.find(args.run, runs_dir)
    _ = run.spec
    run.require_own("clean")
    if not args.dry_run:
        cli.acts()
    # a listing needs no lock, so it works on a read-only file system
    with contextlib.nullcontext() if args.dry_run else locks.run_lock(run):
        found = {what: paths for what, paths in unneeded(run).items() if paths}
        for what, paths in found.items():
            kept = what == ABANDONED and not args.abandoned
            done = "kept" if kept else "would be deleted" if args.dry_run else "deleted"
            print(f"{run.name}: {len(paths)} {what}, {size_text(size_of(paths))}: {done}")
            for path in paths:
                print(f"  {path.relative_to(run.checkpoints_dir)}")
                if not kept and not args.dry_run and not (path.is_dir() and not path.is_symlink()):
                    path.unlink(missing_ok=True)
    if not found:
        print(f"{run.name}: nothing to clean")
    elif ABANDONED in found and not args.abandoned:
        cli.say(f"to delete the branch: {line(run)}")
    return cli.EXIT_OK


def line(run: Run) -> str:
    """The command that deletes an abandoned branch."""
    return f"python -m ecm_cluster.clean {shlex.quote(str(run.path))} --abandoned"


def left_by(run: Run, point: ResumePoint | None, new_code: bool) -> list[str]:
    """What happens to the checkpoints after the one that the run resumes from, in words."""
    later = [m for m in checkpoints.accepted(run) if point is not None and m.iteration > point.iteration]
    if not later:
        return []
    spread = f"iteration {later[0].iteration}" + (f" to {later[-1].iteration}" if len(later) > 1 else "")
    stay = f"{len(later)} checkpoint(s) of {spread} ({size_text(sum(m.size for m in later))})"
    if not new_code and run.code_dir.is_dir() and not any(run.code_dir.glob("*/clean.py")):
        return [f"{stay}: the run's code is of an earlier version, which deletes them; use --code current to keep "
                "them"]
    return [f"{stay} stay on disk and no longer count; `{line(run)}` deletes them"]


def unneeded(run: Run) -> dict[str, list[Path]]:
    """Files that no longer count, by kind; the manifest of a checkpoint first, as without it a checkpoint is void."""
    newest = run.newest_attempt()
    counting, left = {m.file for m in checkpoints.accepted(run)}, retention.abandoned(run)
    others = [m for m in checkpoints.manifests(run) if m.file not in counting]
    return {
        ABANDONED: _files(run, [m for m in others if m.file in left]),
        "checkpoints of stale attempts": _files(run, [m for m in others if m.file not in left and m.attempt < newest]),
        # a link was not created by this program, and could point anywhere
        "files of damaged checkpoints": [] if run.quarantine_dir.is_symlink() else sorted(
            run.quarantine_dir.glob("iter_*")),
        # if it is unknown whether an attempt is alive, it may still write
        "leftovers of interrupted writes": retention.leftovers(run, newest + (liveness.alive(run) == {}))}


def _files(run: Run, several: list[checkpoints.Manifest]) -> list[Path]:
    return [path for m in several for path in (run.manifest_of(m.path(run)), m.path(run))]


def size_of(paths: list[Path]) -> int:
    """Bytes that would be freed; for a link, those of the link itself."""
    return sum(os.lstat(path).st_size for path in paths if os.path.lexists(path))


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
