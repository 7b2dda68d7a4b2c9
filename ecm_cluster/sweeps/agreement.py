"""Whether what is asked for now agrees with the command line itself, and with what is on record of the group."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from ..base.errors import UserError
from ..job import job as jobs
from ..job.flags import given_flags
from ..mmconfig.options import parse_option
from ..rundir.run import Run
from .axes import VariedKey, overlap
from .cells import Cell
from .group import Group, group_of

# what may differ between the first command and a later one: where and for how long a job waits and runs
FREE = {"time", "notify", *(name for name, one in jobs.OPTIONS.items() if one.slurm)}


def check_flags(varied: Sequence[VariedKey], args: argparse.Namespace) -> None:
    """Refuse what is both set and varied.

    Raises:
        UserError: It names the setting.
    """
    given = [*given_flags(args), *(parse_option(text)[0] for text in args.options)]
    for axis in varied:
        for key in given:
            if overlap(axis.key, key):
                raise UserError(f"vary: {axis.key} is varied, and {key} is set as well; leave one of them out")


def common(base: jobs.Job, varied: Sequence[VariedKey]) -> dict[str, Any]:
    """What the runs of a group have in common, as it is on record."""
    left_out = {"name", "runs_dir", *(axis.key for axis in varied)}
    return as_read({key: value for key, value in base.as_record().items() if key not in left_out})


def as_read(value: Any) -> Any:
    """A value as it comes back from its record."""
    if isinstance(value, dict):
        return {key: as_read(inner) for key, inner in value.items()}
    return [as_read(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def check(group: Group, cluster: str, asked: dict[str, Any], cells: Sequence[Cell]) -> None:
    """Refuse what contradicts the runs that a group has already.

    Raises:
        UserError: In one line, with what is different.
    """
    recorded = {frozenset(cell.settings.items()): cell for cell in group.cells}
    for cell in cells:
        run, known = Run(group.path.parent / cell.name), recorded.get(frozenset(cell.settings.items()))
        if os.path.lexists(run.run_file) and group_of(run) != group.name:
            raise UserError(f"name: a run {cell.name!r} exists that is not of this group; use another --name")
        if known is not None and known.digest and known.digest != cell.digest:
            raise UserError(f"vary: {cell.name} is on record with another value of "
                            f"{', '.join(t for t in cell.settings.values() if t.startswith('@')) or 'its settings'}, "
                            "which has changed since; use another --name")
    other = [f"{key}.{inner}".replace("options.", "") for key in {**group.job, **asked} if key not in FREE
             for inner in _differing(group.job.get(key), asked.get(key))]
    other = [key.rstrip(".") for key in other]
    other += ["cluster"] if group.cells and cluster != group.cluster else []
    if group.job and other:
        raise UserError(f"name: the group {group.name!r} exists, and has another {', '.join(sorted(other))}; use "
                        "what it was submitted with, or another --name")


def _differing(one: Any, other: Any) -> list[str]:
    """The keys of two mappings with different values; one empty name for other values that differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return [""] if one != other else []


def in_recorded_order(group: Group, varied: list[VariedKey]) -> list[VariedKey]:
    """The varied names in the order that the group has them in, as its runs are named by it.

    Raises:
        UserError: The group varies other names.
    """
    if not group.varied:
        return varied
    if sorted(group.varied) != sorted(axis.key for axis in varied):
        raise UserError(f"vary: the group {group.name!r} varies {', '.join(group.varied)}; new values can be added to "
                        "these, but no other names; use another --name")
    return sorted(varied, key=lambda axis: group.varied.index(axis.key))
