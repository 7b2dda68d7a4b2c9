"""Draw what a verb prints as an SVG for the README: ``python tools/picture.py OUT.svg VERB [ARGS…]``.

The text is real output, captured; nothing is fetched to show it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, LINE, MARGIN = 8.05, 18, 20  # of a character, of a line, around the text, in pixels
COLOURS = {"$": "#7ee787", "next:": "#79c0ff", "bbox": "#ffa657", "segm": "#ffa657"}


def svg(lines: list[str]) -> str:
    """The lines as a terminal."""
    width = int(max(map(len, lines)) * WIDTH + 2 * MARGIN)
    height = len(lines) * LINE + 2 * MARGIN
    rows = []
    for number, line in enumerate(lines):
        colour = next((c for start, c in COLOURS.items() if line.startswith(start)), "#c9d1d9")
        y = MARGIN + (number + 0.75) * LINE
        rows.append(f'<text x="{MARGIN}" y="{y:.0f}" fill="{colour}" xml:space="preserve">{escape(line)}</text>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            'font-family="ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="13.4">\n'
            f'<rect width="{width}" height="{height}" rx="8" fill="#0d1117"/>\n' + "\n".join(rows) + "\n</svg>\n")


def main(out: str, verb: str, *args: str) -> None:
    done = subprocess.run([sys.executable, "-m", f"ecm_cluster.{verb}", *args], check=True, text=True,
                          capture_output=True)
    shown = ["$ python -m ecm_cluster." + " ".join([verb, *(Path(a).name for a in args)]), *done.stdout.splitlines()]
    Path(out).write_text(svg(shown))


if __name__ == "__main__":
    main(*sys.argv[1:])
