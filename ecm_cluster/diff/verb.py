"""Show what differs between two runs, or between a run and the config that it was made from."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from ..base.errors import UserError
from ..console import cli, layout
from ..job.flags import add_runs_dir, runs_dir_of
from ..mmconfig import config
from ..reporting.tolerant import TolerantRun
from ..rundir import runs
from ..rundir.run import Run
from . import base, code, facts
from .changes import Change, config_diff

EPILOG = """examples:
  python -m ecm_cluster.diff baseline ecm
  python -m ecm_cluster.diff baseline ecm --code
  python -m ecm_cluster.diff ecm
"""
MOST_FILES = 20  # of the code, that are named; --json has all
SAME = "no difference on record"


def parser() -> argparse.ArgumentParser:
    made = cli.Parser(prog="python -m ecm_cluster.diff", description=__doc__, epilog=EPILOG)
    made.add_argument("run", nargs="+", metavar="RUN", help="two runs, or one: then its config is compared with the "
                      "one that it was made from")
    add_runs_dir(made)
    made.add_argument("--code", action="store_true", help="show the lines of code that differ, as a patch")
    made.add_argument("--json", action="store_true", help="print JSON instead of text")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if len(args.run) > 2:
        raise UserError(f"RUN: {len(args.run)} runs given; expected one or two")
    if args.code and len(args.run) == 1:
        raise UserError("code: needs two runs to compare")
    runs_dir = runs_dir_of(args.runs_dir)
    found = [TolerantRun(runs.find(word, runs_dir).path) for word in args.run]
    for run in found:
        _ = run.spec
    differences = of_two(found[0], found[1], args.code) if len(found) == 2 else of_one(found[0])
    if args.json:
        print(json.dumps(differences, indent=1, default=lambda each: each.as_dict()))
    else:
        layout.show(lines(differences, layout.width()))
    return cli.EXIT_OK


def of_two(a: Run, b: Run, with_code: bool = False) -> dict[str, Any]:
    """All differences of two runs; ``same`` if there are none."""
    digests = [code.digest_of(run) for run in (a, b)]
    known = digests[0] is not None and digests[0] == digests[1]
    changed = {"only_a": [], "only_b": [], "changed": []} if known else code.compare(a, b)
    found: dict[str, Any] = {"config": _configs(a, b), **facts.compare(a, b),
                            "code": changed if any(changed.values()) else {}}
    same = not any(found.values())
    if with_code and found["code"]:
        found["patch"] = code.unified(a, b, changed)
    return {"a": str(a.path), "b": str(b.path), "same": same, **found, "within_a": facts.within(a),
            "within_b": facts.within(b), "damage": [*a.damage, *b.damage]}


def _configs(a: Run, b: Run) -> list[Change]:
    try:
        one, other = base.config_of(a), base.config_of(b)
        roots = one.get("data_root"), other.get("data_root")
        if roots[0] != roots[1] and all(roots):  # one change, and not one for each path below it
            other = {**config.rewrite_data_root(other, str(roots[0])), "data_root": roots[1]}
        return config_diff(other, one)
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; restore the file from a backup") from None


def of_one(run: Run) -> dict[str, Any]:
    """A run and the config that it was made from, and what changed while it ran."""
    found = base.against_base(run)
    name, changes = found if found else (None, [])
    return {"a": name, "b": str(run.path), "config": changes, "within_b": facts.within(run), "damage": [*run.damage]}


def lines(found: dict[str, Any], room: int | None) -> list[str]:
    """The differences as text: what only B has is marked ``+``, what only A has ``-``."""
    two = "same" in found
    shown = [f"A  {found['a'] or 'the config that it was made from is not available'}", f"B  {found['b']}"]
    for name in ("config", "job", "data", "weights", "environment", "machine"):
        if found.get(name):
            shown += ["", name, *(line for change in found[name] for line in _wrapped(str(change), room))]
    if found.get("code"):
        marks = {"only_a": "- ", "only_b": "+ ", "changed": ""}
        names = [f"  {mark}{name}" for kind, mark in marks.items() for name in found["code"][kind]]
        more = len(names) - MOST_FILES
        shown += ["", "code", *names[:MOST_FILES], *([f"  … and {more} more files"] if more > 0 else [])]
    if two and found["same"]:
        shown += ["", SAME]
    for which in ("within_a", "within_b"):
        if found.get(which):
            shown += ["", f"within {which[-1].upper()}" if two else "while it ran",
                      *(line for text in found[which] for line in _wrapped(text, room))]
    return [*shown, *([""] if found.get("patch") else []), *found.get("patch", ()),
            *(f"damaged: {what}" for what in found["damage"])]


def _wrapped(text: str, room: int | None) -> list[str]:
    return [f"  {line}" for line in layout.wrapped(text, room and room - 2, "  ")]
