"""The options of a job as flags of a command line."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..base import folders
from ..base.errors import UserError, shown
from .job import OPTIONS, load
from .option import BOOL


def in_groups(*groups: str, on_slurm: bool = True) -> list[str]:
    """Names of the options in these groups; with ``on_slurm=False`` those that mean something without Slurm."""
    return [name for name, one in OPTIONS.items() if one.group in groups and (on_slurm or not one.slurm)]


def add_flags(parser: argparse.ArgumentParser, only: Collection[str] | None = None) -> None:
    """Add one flag for each option that has one, with the option's help and default.

    Of the options ``only``, for a job that has values already, no default is shown.
    """
    for name, one in OPTIONS.items():
        if one.flag is None or (only is not None and name not in only):
            continue
        shows = only is None and one.default not in (None, False)
        text = one.help + (f" (default: {one.default})" if shows else "")
        if one.reader is BOOL:
            parser.add_argument(one.flag, dest=name, action="store_const", const=True, default=None, help=text)
            continue
        metavar = {int: "N", float: "X"}.get(one.reader.word, name.upper())
        parser.add_argument(one.flag, dest=name, type=one.reader.word, default=None, help=text, metavar=metavar)


def add_runs_dir(parser: argparse.ArgumentParser) -> None:
    """Add ``--runs-dir`` to a verb that takes runs; see :func:`runs_dir_of`."""
    parser.add_argument("--runs-dir", default=None,
                        help="directory that holds the runs (default: the site's, else runs)")


def runs_dir_of(given: str | os.PathLike[str] | None) -> Path:
    """The directory that holds the runs: the one that is given, else the site's, else ``runs``."""
    return folders.absolute(given or load(None, {}).runs_dir)


def given_flags(args: argparse.Namespace) -> dict[str, Any]:
    """The values of the flags added by :func:`add_flags` that were given, by name of the option.

    Raises:
        UserError: A value is invalid.
    """
    given = {name: getattr(args, name) for name, one in OPTIONS.items()
             if one.flag and getattr(args, name, None) is not None}
    return {name: value if value == "" and OPTIONS[name].default is None else OPTIONS[name].read(name, value)
            for name, value in given.items()}  # an empty text removes a value


def without_removed(given: Mapping[str, Any]) -> dict[str, Any]:
    """Flags with None for each that removes a value: ``--reservation ''``."""
    return {name: None if value == "" and OPTIONS[name].default is None else value for name, value in given.items()}


def evaluation_flags(args: argparse.Namespace) -> dict[str, Any]:
    """The evaluation block from the command line."""
    block: dict[str, Any] = {"enabled": False} if args.no_eval else {}
    if args.eval_epochs:
        words = args.eval_epochs.split(",")
        if args.eval_epochs != "all" and not all(re.fullmatch("[0-9]{1,9}", word) for word in words):
            raise UserError(f"eval-epochs: invalid value {shown(args.eval_epochs)}; expected all, or epochs such as "
                            "4,8")
        block["epochs"] = "all" if args.eval_epochs == "all" else [int(word) for word in words]
    if args.eval_every is not None:
        block["every"] = args.eval_every
    if args.eval_while_training:
        block["while_training"] = True
    return block
