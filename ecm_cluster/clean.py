"""List what a run no longer needs, with sizes; with --yes, delete it."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import sweeps
from .backends import liveness
from .base.errors import UserError
from .base.units import size_text
from .chain import evaluations, locks
from .console import cli
from .job.flags import add_runs_dir, runs_dir_of
from .reporting import results
from .rundir import checkpoints, retention, runs
from .rundir.run import Run
from .rundir.spec import ResumePoint

EPILOG = """examples:
  python -m ecm_cluster.clean first
  python -m ecm_cluster.clean first --abandoned --yes
  python -m ecm_cluster.clean 'exp-*' --checkpoints --detections --yes
"""
MOST_LISTED = 10  # files of a kind


@dataclass(frozen=True)
class Kind:
    """What can go.

    Attributes:
        flag: Selects it; empty: nothing reads it any more, so it always goes.
        find: Its files and directories; a manifest before its checkpoint, which is void without it.
    """

    flag: str
    text: str
    find: Callable[[Run, bool], list[Path]]


def parser() -> argparse.ArgumentParser:
    made = cli.Parser(prog="python -m ecm_cluster.clean", description=__doc__, epilog=EPILOG)
    made.add_argument("run", nargs="+", metavar="RUN",
                      help="run directories, names of runs, or patterns such as 'exp-*'")
    add_runs_dir(made)
    for kind in KINDS:
        if kind.flag:
            made.add_argument(kind.flag, action="store_true", help=f"also: {kind.text}")
    made.add_argument("--all", action="store_true", help="all of these")
    acts = made.add_mutually_exclusive_group()
    acts.add_argument("--yes", action="store_true", help="delete it; without, it is only listed")
    acts.add_argument("--dry-run", action="store_true", help="only list it, as without --yes")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    found = sweeps.expand(args.run, runs_dir_of(args.runs_dir))
    for run in found:
        _ = run.spec
        run.require_own("clean")
    if args.yes:
        cli.acts()
    sizes = [clean(run, args) for run in found]
    gone, more = (sum(column) for column in zip(*sizes))
    if len(found) > 1:
        print(f"total: {size_text(gone)} {'deleted' if args.yes else 'would be deleted'}")
    if not args.yes and gone:
        cli.say(f"nothing was deleted; to delete it: {_again(args, args.run, '--yes')}")
    if more:
        print(f"{size_text(more)} more can go: see the options above")
    return cli.EXIT_OK


def _again(args: argparse.Namespace, words: Sequence[str], *more: str) -> str:
    flags = ["--all"] if args.all else [kind.flag for kind in KINDS if kind.flag and getattr(args, kind.flag[2:])]
    place = ["--runs-dir", args.runs_dir] if args.runs_dir else []
    return "python -m ecm_cluster.clean " + shlex.join([*words, *place, *flags, *more])


def clean(run: Run, args: argparse.Namespace) -> tuple[int, int]:
    """List what can go of one run, and delete it if asked to; bytes that go, and that could go besides."""
    gone = more = 0
    # a listing needs no lock, so it works on a read-only file system
    with locks.run_lock(run) if args.yes else contextlib.nullcontext():
        idle = liveness.alive(run) == {}  # if it is unknown whether an attempt is alive, it may still write
        for kind in KINDS:
            paths = kind.find(run, idle)
            if not paths:
                continue
            size, selected = size_of(paths), not kind.flag or args.all or getattr(args, kind.flag[2:])
            gone, more = (gone + size, more) if selected else (gone, more + size)
            done = f"kept; {kind.flag} selects them" if not selected else "deleted" if args.yes else "would be deleted"
            print(f"{run.name}: {len(paths)} {kind.text}, {size_text(size)}: {done}")
            for path in paths[:MOST_LISTED]:
                print(f"  {path.relative_to(run.path)}")
            if len(paths) > MOST_LISTED:
                print(f"  and {len(paths) - MOST_LISTED} more")
            if selected and args.yes:
                _delete(run, paths)
    if not gone and not more:
        print(f"{run.name}: nothing to clean")
    return gone, more


def _delete(run: Run, paths: Sequence[Path]) -> None:
    """Delete what is listed; nothing is followed through a link, and a directory in place of a file stays."""
    code = run.code_folders()
    for path in paths:
        if path in code:
            shutil.rmtree(path)
        elif path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)


def line(run: Run) -> str:
    """The command that deletes an abandoned branch."""
    return f"python -m ecm_cluster.clean {shlex.quote(str(run.path))} --abandoned --yes"


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


# ---------------------------------------------------------------------------------------------- what can go


def _others(run: Run) -> list[checkpoints.Manifest]:
    counting = {m.file for m in checkpoints.accepted(run)}
    return [m for m in checkpoints.manifests(run) if m.file not in counting]


def _abandoned(run: Run, idle: bool) -> list[Path]:
    left = retention.abandoned(run)
    return _files(run, [m for m in _others(run) if m.file in left])


def _stale(run: Run, idle: bool) -> list[Path]:
    left, newest = retention.abandoned(run), run.newest_attempt()
    return _files(run, [m for m in _others(run) if m.file not in left and m.attempt < newest])


def _damaged(run: Run, idle: bool) -> list[Path]:
    # a link was not created by this program, and could point anywhere
    return [] if run.quarantine_dir.is_symlink() else sorted(run.quarantine_dir.glob("iter_*"))


def _leftovers(run: Run, idle: bool) -> list[Path]:
    return retention.leftovers(run, run.newest_attempt() + idle)


def _old(run: Run, idle: bool) -> list[Path]:
    """Checkpoints that nothing needs: not to resume, not to be scored, not the best, not as another run's weights.

    That holds while the run is alive, too: what its training and evaluations need is never among them.
    """
    counting = checkpoints.accepted(run)
    complete = run.completion()
    needed = {m.file for m in counting[-(1 if complete else max(run.job().keep, retention.FEWEST)):]}
    needed |= {complete or ""} | evaluations.awaited(run) | _elsewhere(run)
    with contextlib.suppress(UserError):
        needed.add(results.best(run).provenance["checkpoint"])
    return _files(run, [m for m in counting if m.file not in needed])


def _elsewhere(run: Run) -> set[str]:
    """Names of this run's checkpoints that runs beside it use, as pretrained weights or to score them."""
    used = set()
    for other in runs.list_runs(run.path.parent):
        if other.path == run.path:
            continue
        paths = [other.checkpoint_file(0, 0)]
        with contextlib.suppress(UserError):
            paths += [Path(str(weight.get("path"))) for weight in other.spec.weights if isinstance(weight, dict)]
        for path in paths:
            real = Path(os.path.realpath(path))
            if real.parent == Path(os.path.realpath(run.checkpoints_dir)):
                used.add(real.name)
    return used


def _detections(run: Run, idle: bool) -> list[Path]:
    """Of evaluations that are scored: other scoring settings, and figures of a later version, then need a GPU again."""
    if not idle:
        return []
    pending = {work.path for link in run.links_with_elements()
               for element, work in _elements(run, link) if not evaluations.is_done(work, element.scoring)}
    scored = [work for work in run.evaluations() if work.path not in pending and work.all_metrics()]
    return [path for work in scored if not work.detections_dir.is_symlink()
            for path in sorted(work.detections_dir.glob("chunk-*.npz"))]


def _elements(run: Run, link: str) -> Iterator[tuple[evaluations.Element, evaluations.Evaluation]]:
    elements = evaluations.read(run, link)
    return ((element, work) for element, work in zip(elements, evaluations.works(run, elements)) if work is not None)


def _code(run: Run, idle: bool) -> list[Path]:
    """Code that no later attempt imports; its digest stays on record."""
    return [path for path in run.code_folders() if path != run.code_dir] if idle and run.code_dir.is_dir() else []


def _files(run: Run, several: Sequence[checkpoints.Manifest]) -> list[Path]:
    return [path for m in several for path in (run.manifest_of(m.path(run)), m.path(run))]


def size_of(paths: Sequence[Path]) -> int:
    """Bytes that would be freed; for a link, those of the link itself."""
    inside = [Path(folder, name) for path in paths if path.is_dir() and not path.is_symlink()
              for folder, _, names in os.walk(path) for name in names]
    return sum(os.lstat(path).st_size for path in (*paths, *inside) if os.path.lexists(path) and not (
        path.is_dir() and not path.is_symlink()))


KINDS = (
    Kind("", "checkpoints of stale attempts", _stale),
    Kind("", "files of damaged checkpoints", _damaged),
    Kind("", "leftovers of interrupted writes", _leftovers),
    Kind("--abandoned", "files of checkpoints that `resume --from` left behind", _abandoned),
    Kind("--checkpoints", "files of old checkpoints, which nothing needs", _old),
    Kind("--detections", "files of detections that are scored", _detections),
    Kind("--code", "directories of code that is no longer used", _code),
)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
