"""A group of runs: what belongs to it, on record in a directory of its own beside the runs.

``RUNS_DIR/GROUP/group.json`` says which runs there are to be, also those that are not submitted yet. Each run's own
record names its group, so a group whose record is lost is found again from its runs; and a run counts as a member only
where its own record says so: another user could write anything into the group's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base import files, owners
from ..base.errors import UserError
from ..base.reading import Unreadable
from ..rundir import records, runs
from ..rundir.run import Run
from .cells import Cell

FILE, LOCK = "group.json", "group.lock"


@dataclass
class Group:
    """A group.

    Attributes:
        job: The job that its runs have in common, without what is varied; empty if the record is lost.
        varied: The names of what is varied.
        at_once: How many of its runs may be at work at once; 0: all.
    """

    path: Path
    cluster: str
    job: dict[str, Any] = field(default_factory=dict)
    varied: list[str] = field(default_factory=list)
    at_once: int = 0
    cells: list[Cell] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def file(self) -> Path:
        return self.path / FILE

    def run_of(self, cell: Cell) -> Run | None:
        """The run of a cell; None if it is not created yet, or another run has its name."""
        run = Run(self.path.parent / cell.name)
        return run if group_of(run) == self.name else None

    def members(self) -> list[tuple[Cell, Run | None]]:
        return [(cell, self.run_of(cell)) for cell in self.cells]

    def runs(self) -> list[Run]:
        return [run for _, run in self.members() if run is not None]

    def require_own(self) -> None:
        """Refuse to add to another user's group."""
        try:
            uid = owners.of(self.path, FILE)
        except OSError as error:
            raise UserError(f"name: {error.filename}: {error.strerror}") from None
        if uid != os.geteuid():
            raise UserError(f"name: {self.path} belongs to {owners.name_of(uid)}; use another --name")

    def write(self) -> None:
        files.write_json(self.file, {
            "cluster": self.cluster, "job": self.job, "varied": self.varied, "at_once": self.at_once,
            "cells": [{"name": c.name, "settings": dict(c.settings), "digest": c.digest} for c in self.cells]})
        files.kill_point("group-written", self.file)


def group_of(run: Run) -> str | None:
    """The name of the group that a run belongs to, by its own record."""
    try:
        return run.spec.group.get("name")
    except UserError:
        return None


def at(folder: Path) -> Group | None:
    """The group whose record is in a directory.

    Raises:
        Unreadable: It is damaged.
    """
    folder = Path(os.path.abspath(folder))
    try:
        record = records.read(folder / FILE, records.GROUP)
    except FileNotFoundError:
        return None
    except Unreadable as error:
        if not os.path.lexists(folder / FILE):  # a file, or a directory that cannot be entered
            return None
        found = _from_runs(folder)
        if found is None:
            raise Unreadable(error.path, error.field, "not a readable record of a group; remove the file, and submit "
                             "the group again") from None
        return found
    cells = [Cell(c["name"], c["settings"], c["digest"]) for c in record["cells"]]
    return Group(folder, record["cluster"], record["job"], record["varied"], record["at_once"], cells)


def _from_runs(folder: Path) -> Group | None:
    """A group whose record is lost, from the records of its runs."""
    found = [run for run in runs.list_runs(folder.parent) if group_of(run) == folder.name]
    if not found:
        return None
    cells = [Cell(run.name, run.spec.group.get("settings", {})) for run in found]
    varied = list(dict.fromkeys(key for cell in cells for key in cell.settings))
    return Group(folder, found[0].spec.cluster, varied=varied, cells=cells)


def find(word: str, runs_dir: Path) -> Group | None:
    """The group that a word names, as a path or below ``runs_dir``; None if it is none. A run comes first."""
    if not word or "\0" in word:
        return None
    folders = [Path(word), runs_dir / word]
    if any(os.path.lexists(Run(folder).run_file) for folder in folders):
        return None
    for folder in folders:
        found = at(folder)
        if found is not None:
            return found
    return _from_runs(runs_dir / word) if os.sep not in word and not set(word) & set("*?[") else None


def members(word: str, runs_dir: Path) -> list[Run] | None:
    """The runs of the group that a word names; None if it names none."""
    found = find(word, runs_dir)
    return None if found is None else found.runs()


def expand(words: Sequence[str], runs_dir: Path) -> list[Run]:
    """The runs that words stand for, as :func:`ecm_cluster.rundir.runs.find_all`; a group stands for its runs.

    Raises:
        UserError: A word stands for no run.
    """
    found: dict[str, Run] = {}
    for word in words:
        of_group = members(word, runs_dir)
        if of_group == []:
            raise UserError(f"RUN: no run of the group {word!r} is submitted yet; `python -m ecm_cluster.status {word}`"
                            " shows what it is to have")
        for run in of_group or runs.find_all([word], runs_dir):
            found.setdefault(os.path.realpath(run.path), run)
    return list(found.values())
