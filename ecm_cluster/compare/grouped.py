"""A group as a table of means over seeds with their significance: as text, CSV, LaTeX and JSON."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from ..console import cli, layout
from ..reporting.tables import UNDEFINED, aligned, as_csv
from ..scoring.metrics import in_words
from ..sweeps.group import Group
from . import latex
from .comparison import Comparison, compare
from .settings import FIGURES, GroupSetting, figures
from .significance import Difference


def main(group: Group, args: argparse.Namespace) -> int:
    """Compare the settings of a group and print or write the result; the verb's exit code."""
    compared = compare(group, args)
    for option, given, text in (("csv", args.csv, to_csv), ("latex", args.latex, latex.table)):
        if given:
            cli.write_file(option, given, text(compared))
    if args.json:
        print(json.dumps(to_json(compared), indent=1))
    else:
        cli.say(to_text(compared, layout.width()))
    return cli.EXIT_OK


def spread(setting: GroupSetting, kind: str, name: str, sign: str = " ± ") -> str:
    """``26.4 ± 0.2``: mean and standard deviation over seeds, in percent."""
    mean, deviation = setting.mean(kind, name), setting.deviation(kind, name)
    if mean is None:
        return UNDEFINED
    return f"{100 * mean:.1f}" + ("" if deviation is None else f"{sign}{100 * deviation:.1f}")


def to_text(compared: Comparison, room: int | None = None) -> str:
    """The tables, and what is missing in them.

    Args:
        room: Cells in a line.
    """
    lines = []
    for kind in compared.kinds:
        shown = figures(compared.settings, kind)
        rows = [[s.label, str(len(s.runs)), *(spread(s, kind, name) for name in shown)] for s in compared.settings]
        lines.append(aligned(["", "n", in_words(kind, shown[0]), *shown[1:]], rows, 1, room))
    rows = [[label, in_words(kind, name), f"{100 * d.value:+.1f}", _interval(d), probability(d.p),
             _error(d.seeds), _error(d.images), str(d.runs)] for (label, kind, name), d in compared.differences.items()]
    if rows:
        header = ["", "", "points", "95% interval", "p", "seeds", "images", "n"]
        lines.append(f"difference to {compared.reference.label}, and its errors over seeds and over images\n"
                     + aligned(header, rows, 2, room))
    if compared.missing:
        lines.append("\n".join(line for text in compared.missing
                               for line in layout.wrapped(f"missing: {text}", room, "  ")))
    alone = all(len(setting.runs) < 2 for setting in compared.settings)
    notes = [*compared.notes, *(["with one run a setting nothing is known of other seeds"] if alone else [])]
    if notes:
        lines.append("\n".join(line for text in notes for line in layout.wrapped(f"note: {text}", room, "  ")))
    return "\n\n".join(lines)


def _interval(d: Difference) -> str:
    return UNDEFINED if d.low is None or d.high is None else f"{100 * d.low:+.1f} to {100 * d.high:+.1f}"


def probability(p: float | None) -> str:
    return UNDEFINED if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _error(value: float | None) -> str:
    return UNDEFINED if value is None else f"{100 * value:.2f}"


def to_csv(compared: Comparison) -> str:
    """One row for each setting, kind and figure, unrounded, as fractions of one."""
    rows: list[list[Any]] = [["setting", "kind", "figure", "n", "mean", "sd", "against", "difference", "low", "high",
                              "p", "error_seeds", "error_images", "pairs"]]
    for setting in compared.settings:
        for kind in compared.kinds:
            for name in FIGURES:
                d = compared.differences.get((setting.label, kind, name))
                rows.append([setting.label, kind, name, len(setting.values(kind, name)), setting.mean(kind, name),
                             setting.deviation(kind, name), compared.reference.label if d else None,
                             *((d.value, d.low, d.high, d.p, d.seeds, d.images, d.runs) if d else [None] * 7)])
    return as_csv(rows)


def to_json(compared: Comparison) -> dict[str, Any]:
    return {"group": compared.name, "against": compared.reference.label,
            "settings": [{"setting": setting.label, "runs": [one.cell.name for one in setting.runs],
                          "figures": {kind: {name: _as_json(compared, setting, kind, name) for name in FIGURES}
                                      for kind in compared.kinds}} for setting in compared.settings],
            "missing": compared.missing, "notes": compared.notes}


def _as_json(compared: Comparison, setting: GroupSetting, kind: str, name: str) -> dict[str, Any]:
    found = compared.differences.get((setting.label, kind, name))
    return {"n": len(setting.values(kind, name)), "mean": setting.mean(kind, name),
            "sd": setting.deviation(kind, name), "values": setting.values(kind, name),
            "difference": asdict(found) if found else None}


