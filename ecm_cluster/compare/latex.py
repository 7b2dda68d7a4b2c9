"""A comparison as a LaTeX table with the rules of booktabs, to be put into a paper."""

from __future__ import annotations

import re

from ..scoring.metrics import KINDS
from .comparison import Comparison
from .settings import GroupSetting, figures

LEVEL = 0.05
SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
           **{sign: f"\\{sign}" for sign in "&%$#_{}"}}


def escaped(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return re.sub(r"[\\~^&%$#_{}]", lambda found: SPECIAL[found[0]], text)


def table(compared: Comparison) -> str:
    """``\\begin{table} … \\end{table}``: mean and standard deviation in percent, masks beside boxes."""
    shown = {kind: figures(compared.settings, kind) for kind in compared.kinds}
    width = sum(map(len, shown.values()))
    head, rules, at = [], [], 3
    for kind, names in shown.items():
        head.append(f"\\multicolumn{{{len(names)}}}{{c}}{{{KINDS[kind]}}}")
        rules.append(f"\\cmidrule(lr){{{at}-{at + len(names) - 1}}}")
        at += len(names)
    names = [_figure(name) for of_kind in shown.values() for name in of_kind]
    rows = [" & ".join([escaped(setting.label), str(len(setting.runs)),
                        *(_cell(compared, setting, kind, name) for kind, of_kind in shown.items() for name in of_kind)])
            for setting in compared.settings]
    return "\n".join([
        "% needs \\usepackage{booktabs}",
        "\\begin{table}", "\\centering",
        f"\\caption{{{_caption(compared)}}}",
        f"\\label{{tab:{re.sub('[^A-Za-z0-9-]+', '-', compared.name)}}}",
        f"\\begin{{tabular}}{{lr{'r' * width}}}", "\\toprule",
        " & & " + " & ".join(head) + " \\\\", " ".join(rules),
        " & ".join(["", "$n$", *names]) + " \\\\", "\\midrule",
        *(f"{row} \\\\" for row in rows),
        "\\bottomrule", "\\end{tabular}", "\\end{table}", ""])


def _caption(compared: Comparison) -> str:
    text = "Average precision in percent, mean $\\pm$ standard deviation over $n$ seeds."
    if any(d.p is not None for d in compared.differences.values()):
        text += f" *: differs from {escaped(compared.reference.label)}, $p < {LEVEL}$."
    return text


def _figure(name: str) -> str:
    """``AP$_r$`` for APr."""
    return f"AP$_{{{name[2:]}}}$" if len(name) > 2 else name


def _cell(compared: Comparison, setting: GroupSetting, kind: str, name: str) -> str:
    mean, deviation = setting.mean(kind, name), setting.deviation(kind, name)
    if mean is None:
        return "--"
    found = compared.differences.get((setting.label, kind, name))
    star = "^{*}" if found is not None and found.p is not None and found.p < LEVEL else ""
    spread = "" if deviation is None else f" \\pm {100 * deviation:.1f}"
    return f"${100 * mean:.1f}{spread}{star}$"
