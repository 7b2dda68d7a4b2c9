"""Pack a run into one file without its checkpoints: config, code, ledger, logs, scores, page; for a paper's readers."""

from __future__ import annotations

import argparse
import gzip
import io
import os
import stat
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from .backends import liveness
from .base import files, folders
from .base.errors import UserError
from .base.reading import Unreadable, open_regular
from .base.units import size_text
from .console import cli
from .job.flags import add_runs_dir, runs_dir_of
from .rundir import checkpoints, runs
from .rundir.run import Run

EPILOG = """examples:
  python -m ecm_cluster.archive first
  python -m ecm_cluster.archive first --with-last -o /archive/first.tar.gz

Not in it: checkpoints (without --with-last), detections (without
--with-detections), symbolic links, and what is secret or means nothing elsewhere:
the values of env, the URLs of notify, locks, pickles, addresses. `status` and
`report` work on the unpacked directory.
"""
SUFFIX = ".tar.gz"  # every machine can unpack it, and Python can write it; weights and detections hardly shrink
IN_MEMORY = 64 << 20  # bytes of a file that may grow while it is read, such as a log; larger ones never change
CHECKPOINTS, DETECTIONS, LINKS, SECRETS, UNREADABLE = (
    "checkpoints", "files of detections", "links and other special files", "secret or temporary files",
    "unreadable files")


def parser() -> argparse.ArgumentParser:
    made = cli.Parser(prog="python -m ecm_cluster.archive", description=__doc__, epilog=EPILOG)
    made.add_argument("run", metavar="RUN", help="a run directory, or the name of a run")
    add_runs_dir(made)
    made.add_argument("-o", "--output", metavar="FILE", help=f"file to write, which must not exist (default: "
                      f"RUN{SUFFIX} in the working directory)")
    made.add_argument("--with-last", action="store_true", help="include the last checkpoint")
    made.add_argument("--with-detections", action="store_true", help="include the detections, e.g. to score them again")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    run = runs.find(args.run, runs_dir_of(args.runs_dir))
    _ = run.spec
    target = folders.absolute(args.output or run.name + SUFFIX)
    require_new(target)
    cli.check_writable("output", str(target))
    if run.path in target.parents or run.path == target:
        raise UserError(f"output: {target} is inside the run; use a file outside it")
    if run.is_own and liveness.alive(run) != {}:
        print(f"warning: {run.name} may still be at work; the archive holds what is there now")
    cli.acts()
    left_out: Counter[str] = Counter()
    with files.replacing(target) as handle:
        count = write(run, handle, args, left_out)
        require_new(target)  # of two that write it, one has been faster
    print(f"wrote {folders.shortest(target)}: {count} files, {size_text(target.stat().st_size)}")
    if left_out:
        print("left out: " + ", ".join(f"{number} {what}" for what, number in left_out.items()))
    return cli.EXIT_OK


def require_new(target: Path) -> None:
    if os.path.lexists(target):
        raise UserError(f"output: {target} exists; delete it, or use another -o FILE")


def write(run: Run, handle: IO[bytes], args: argparse.Namespace, left_out: Counter[str]) -> int:
    """Write the archive; the same run gives the same bytes. The number of files in it."""
    count, last = 0, _last(run) if args.with_last else None
    with gzip.GzipFile(filename="", mode="wb", fileobj=handle, mtime=0) as packed, \
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in members(run, last, args.with_detections, left_out):
            try:
                _add(tar, path, f"{run.name}/{path.relative_to(run.path)}")
                count += 1
            except (PermissionError, FileNotFoundError, Unreadable):  # of another user's run; or deleted meanwhile
                left_out[UNREADABLE] += 1
    return count


def _last(run: Run) -> Path:
    counting = checkpoints.accepted(run)
    if not counting:
        raise UserError(f"with-last: {run.name} has no checkpoint; leave out --with-last")
    return counting[-1].path(run)


def members(run: Run, last: Path | None, detections: bool, left_out: Counter[str]) -> Iterator[Path]:
    """The files that belong into the archive, sorted; no link is followed."""
    for folder, inside, names in os.walk(run.path):
        inside.sort()
        here = Path(folder)
        left_out[LINKS] += sum((here / name).is_symlink() for name in inside)
        for path in (here / name for name in sorted(names)):
            what = _left_out(run, path, last, detections)
            if what is None:
                yield path
            else:
                left_out[what] += 1
    for what in [what for what, number in left_out.items() if not number]:
        del left_out[what]


def _left_out(run: Run, path: Path, last: Path | None, detections: bool) -> str | None:
    """Why a file is not in the archive; None if it is."""
    if not stat.S_ISREG(path.lstat().st_mode):
        return LINKS
    if run.is_private(path):
        return SECRETS
    # manifests stay: what was committed is part of the history, and `status` reads them
    if run.checkpoints_dir in path.parents and path.suffix == ".pth" and path != last:
        return CHECKPOINTS
    if run.evaluations_dir in path.parents and path.suffix == ".npz" and not detections:
        return DETECTIONS
    return None


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    with os.fdopen(open_regular(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        there = os.fstat(file.fileno())
        info = tarfile.TarInfo(name)  # owned by root, so that no user name is disclosed
        info.mode = 0o755 if there.st_mode & 0o100 else 0o644
        info.mtime = int(there.st_mtime)
        if there.st_size > IN_MEMORY:
            info.size = there.st_size
            tar.addfile(info, file)
        else:
            data = file.read()
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
