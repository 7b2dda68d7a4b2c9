"""Resuming the runs of a group, as far as each can be resumed."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from ..backends import choose
from ..base.errors import UserError
from ..console import cli, program
from ..rundir.run import Run
from . import follow, submitting
from .group import Group


def resume(group: Group, resume_one: Callable[[Run, argparse.Namespace], bool], args: argparse.Namespace) -> int:
    """Resume every run that can be, and say of the others why not; the verb's exit code.

    Args:
        resume_one: Whether anything was left to do for a run; raises UserError where it cannot be resumed.
    """
    if args.iteration is not None:
        raise UserError("from: only for a single run; leave it out")
    resumed: list[Run] = []
    left: list[str] = []
    for cell, run in group.members():
        if run is None or not run.submissions():
            left.append(f"{cell.name}: not submitted; the same `submit` command submits it")
            continue
        try:
            if not choose.of(run).queues and not args.dry_run:
                submitting.wait_for_room(resumed, group.at_once or 1)
            resumed += [run] if resume_one(run, args) else []
        except UserError as error:
            left.append(f"{cell.name}: {program.one_line(error)}")
    cli.say("\n".join([f"{len(resumed)} of {len(group.cells)} runs {'would be ' if args.dry_run else ''}resumed",
                       *(f"not resumed: {text}" for text in left)]))
    if args.wait and resumed and not args.dry_run:
        return max(follow.follow(resumed), cli.EXIT_FAILED if left else cli.EXIT_OK)
    return cli.EXIT_FAILED if left else cli.EXIT_OK
