"""Show which classes two runs detect better or worse, by frequency group; or the settings of a group of runs."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import sweeps
from ..base.errors import UserError
from ..console import cli
from ..job.flags import add_runs_dir, runs_dir_of
from ..reporting import results, tables
from ..reporting.tables import aligned, percent
from ..rundir import runs
from ..scoring import metrics
from . import grouped

EPILOG = """examples:
  python -m ecm_cluster.compare baseline ecm
  python -m ecm_cluster.compare runs/a runs/b@24000 --iou bbox --top 20
  python -m ecm_cluster.compare losses --against ce --latex table.tex
"""


def parser() -> argparse.ArgumentParser:
    made = cli.Parser(prog="python -m ecm_cluster.compare", description=__doc__, epilog=EPILOG)
    made.add_argument("run", nargs="+", metavar="RUN", help="two runs; RUN@ITERATION for scores other than the newest; "
                      "or a group of runs: mean and deviation over seeds for each setting")
    add_runs_dir(made)
    made.add_argument("--iou", choices=("segm", "bbox"), default=None, help="masks or boxes (default: masks, if any)")
    made.add_argument("--top", type=int, default=5, metavar="N", help="classes shown per group, both ways (default: 5)")
    made.add_argument("--csv", metavar="FILE", help="write every class, unrounded")
    made.add_argument("--against", metavar="SETTING", help="of a group: the setting that the others are compared with, "
                      "as the table names it (default: the first)")
    made.add_argument("--replicates", type=int, metavar="N", help="of a group: resample the test images N times; 0: do "
                      "not (default: 200 where that takes less than a minute)")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="of a group: seed of the resampling (default: "
                      "0)")
    made.add_argument("--latex", metavar="FILE", help="of a group: write the table for a paper")
    made.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.replicates is not None and (args.replicates < 0 or args.replicates == 1):
        raise UserError(f"replicates: invalid value {args.replicates}; expected 2 or more, or 0")
    if args.seed < 0:
        raise UserError(f"seed: invalid value {args.seed}; expected 0 or more")
    if args.top < 0:
        raise UserError(f"top: invalid value {args.top}; expected 0 or more")
    for option in ("csv", "latex"):
        if getattr(args, option):
            cli.check_writable(option, getattr(args, option))
    runs_dir = runs_dir_of(args.runs_dir)
    of_group = sweeps.find(args.run[0], runs_dir) if len(args.run) == 1 else None
    if of_group is not None:
        return grouped.main(of_group, args)
    check_two(args)
    one, other = (scores_of(text, runs_dir) for text in args.run)
    kinds = [k for k in ("segm", "bbox") if k in one.document["figures"] and k in other.document["figures"]]
    kind = args.iou or next(iter(kinds), "bbox")
    if kind not in kinds:
        raise UserError(f"iou: {kind} is not scored in both; expected {' or '.join(kinds) or 'other runs'}")
    changes = classes(one, other, kind)
    if args.csv:
        cli.write_file("csv", args.csv, as_csv(changes, kind))
    if args.json:
        print(json.dumps({"iou": kind, "runs": [source(one), source(other)], "classes": changes}, indent=1))
    else:
        print(f"{metrics.in_words(kind, 'AP')}\n  A  {source(one)}\n  B  {source(other)}\n")
        print(summary(one, other, kind, changes))
        for group, word in metrics.FREQUENCIES.items():
            text = most_changed([c for c in changes if c["frequency"] == group], args.top)
            if text:
                print(f"\n{word} classes that changed most\n{text}")
    return cli.EXIT_OK


def check_two(args: argparse.Namespace) -> None:
    """Refuse another number of runs than two, and options that apply to groups only."""
    given = [name for name in ("against", "replicates", "latex") if getattr(args, name) is not None]
    if len(args.run) != 2:
        raise UserError(f"RUN: {' '.join(args.run)}: expected two runs, or a group of runs (`submit --vary`)")
    if given:
        raise UserError(f"{given[0]}: only for a group of runs; leave it out")


def scores_of(text: str, runs_dir: Path) -> results.Row:
    """The figures of ``RUN`` or ``RUN@ITERATION``: preferably as configured, without test settings."""
    of_iteration = re.fullmatch(r"(.*)@([0-9]{1,18})", text, re.DOTALL)
    name, iteration = of_iteration.groups() if of_iteration else (text, "")
    run = runs.find(name, runs_dir)
    _ = run.spec
    found = [row for row in results.rows(run) if not iteration or row.provenance["iteration"] == int(iteration)]
    if not found:
        raise UserError(f"RUN: {text} has no scores yet; `python -m ecm_cluster.evaluate {name}` scores it")
    return max(found, key=lambda row: (row.provenance["iteration"], not row.settings))


def source(row: results.Row) -> str:
    return f"{row.run.name}, iteration {row.provenance['iteration']}"


def classes(one: results.Row, other: results.Row, kind: str) -> list[dict[str, Any]]:
    """Both APs of each class, and their difference; None where one is undefined.

    Raises:
        UserError: They were scored on different annotations.
    """
    first, second = one.provenance, other.provenance
    if first.get("annotations_digest") != second.get("annotations_digest"):
        raise UserError(f"RUN: {source(one)} and {source(other)} were scored on different annotations "
                        f"({first.get('annotations')}, {second.get('annotations')}); only scores on the same can be "
                        "compared")
    theirs = {c["id"]: c for c in other.document["per_class"]}
    found = []
    for row in one.document["per_class"]:
        if row["id"] not in theirs:
            raise UserError(f"RUN: {source(one)} and {source(other)} were scored on different classes ({row['name']!r} "
                            "is only in the first); only scores on the same can be compared")
        a, b = row.get(kind), theirs[row["id"]].get(kind)
        found.append({"id": row["id"], "name": row["name"], "frequency": row["frequency"],
                      "instance_count": row["instance_count"], "a": a, "b": b,
                      "change": None if a is None or b is None else b - a})
    return found


def summary(one: results.Row, other: results.Row, kind: str, changes: list[dict[str, Any]]) -> str:
    """The metrics of both and, for means over classes, how many classes went up and down."""
    lines = []
    for metric in metrics.METRICS:
        if metrics.COMPARE not in metric.shown:
            continue
        a, b = one.figure(f"{kind}_{metric.name}"), other.figure(f"{kind}_{metric.name}")
        inside = [c["change"] for c in changes if c["change"] is not None and metric.frequency in ("", c["frequency"])]
        counts = [sum(x > 0 for x in inside), sum(x < 0 for x in inside), sum(x == 0 for x in inside)]
        lines.append([metric.name, percent(a), percent(b), _signed(None if a is None or b is None else b - a),
                      *("" if metric.frequency is None else str(count) for count in counts)])
    return aligned(["", "A", "B", "B - A", "classes up", "down", "same"], lines, left=1)


def most_changed(changes: list[dict[str, Any]], top: int) -> str:
    """The classes with the largest gains and losses."""
    known = sorted((c for c in changes if c["change"]), key=lambda c: -c["change"])
    up, down = [c for c in known if c["change"] > 0][:top], [c for c in known if c["change"] < 0][::-1][:top]
    shown = up + down[::-1]
    rows = [[c["name"], str(c["instance_count"] if c["instance_count"] is not None else "–"), percent(c["a"]),
             percent(c["b"]), _signed(c["change"])] for c in shown]
    return aligned(["class", "instances", "A", "B", "B - A"], rows, left=1) if rows else ""


def as_csv(changes: list[dict[str, Any]], kind: str) -> str:
    header = ["id", "name", "frequency", "instance_count", f"a_{kind}", f"b_{kind}", "change"]
    return tables.as_csv([header, *(list(change.values()) for change in changes)])


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f}"
