"""Make the page about a run, or about several beside each other: one HTML file that needs nothing else."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from .. import sweeps
from ..base import folders
from ..base.errors import UserError
from ..base.reading import read_bytes
from ..base.units import size_text
from ..console import cli
from ..job.flags import add_runs_dir, runs_dir_of
from ..rundir.run import Run

EPILOG = """examples:
  python -m ecm_cluster.report mask_rcnn_r50_1x-001
  python -m ecm_cluster.report baseline ecm -o comparison.html
  python -m ecm_cluster.report 'exp-*' -o experiments.html
"""
STANDARD_OUTPUT, MARK = "-", b'<meta name="generator" content="ecm-cluster'
SEVERAL = "report.html"


def parser() -> argparse.ArgumentParser:
    made = cli.Parser(prog="python -m ecm_cluster.report", description=__doc__, epilog=EPILOG)
    made.add_argument("run", nargs="+", metavar="RUN", help="run directories, names of runs, or patterns such as "
                      "'exp-*'")
    made.add_argument("-o", "--output", metavar="FILE", help="the page; - for standard output (default: report.html in "
                      "the directory of a run of yours, otherwise NAME.html here)")
    add_runs_dir(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    runs_dir = runs_dir_of(args.runs_dir)
    found = sweeps.expand(args.run, runs_dir)
    for run in found:
        _ = run.spec  # an error at once, before the others are read
    output = args.output or str(place(found))
    if output != STANDARD_OUTPUT:
        cli.check_writable("output", output)
    from . import page

    text = page.make(found)
    if output == STANDARD_OUTPUT:
        print(text, end="")
        return cli.EXIT_OK
    cli.acts()
    cli.write_file("output", output, text)
    print(f"page: {folders.shortest(folders.absolute(output))} ({size_text(len(text.encode()))})")
    return cli.EXIT_OK


def place(found: Sequence[Run]) -> Path:
    """Where the page goes unless the user says: into the run itself, if that is the caller's and can be written.

    Raises:
        UserError: Something else has that name here.
    """
    if len(found) == 1 and found[0].is_own and os.access(found[0].path, os.W_OK):
        return found[0].report_file
    here = folders.absolute(SEVERAL if len(found) > 1 else f"{found[0].name}.html")
    if os.path.lexists(here) and not _is_page(here):
        raise UserError(f"output: {here} exists and is not such a page; use -o to name another file")
    return here


def _is_page(path: Path) -> bool:
    with contextlib.suppress(OSError, UserError):
        return MARK in read_bytes(path)[:4096]
    return False


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
