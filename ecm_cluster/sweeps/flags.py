"""The flags of ``submit`` that make a group of runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..base.errors import UserError
from ..job import job as jobs
from . import group


def add_group_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--vary", action="append", default=[], metavar="NAME=VALUES", help="submit a group of runs, "
                        "one for each combination of values: NAME is a key of a job file or an mmdet option, e.g. "
                        "seed=0,1,2; may be repeated")
    parser.add_argument("--sweep", metavar="FILE", help="the same from a file (YAML): names with lists of values")
    parser.add_argument("--at-once", type=int, metavar="N", help="at most N runs of the group at a time (default: all; "
                        "1 with --cluster local)")


def asks_for_group(run_dir: Path, job: jobs.Job, args: argparse.Namespace) -> bool:
    """Whether a group is asked for; UserError for options that apply to groups only, and for the name of a group."""
    if args.vary or args.sweep:
        return True
    if args.at_once is not None:
        raise UserError("at-once: only for a group of runs; add --vary or --sweep, or leave it out")
    if job.name and group.at(run_dir / job.name) is not None:
        raise UserError(f"name: {job.name!r} is a group of runs; repeat its --vary or --sweep to submit what is "
                        "missing of it, or use another --name")
    return False
