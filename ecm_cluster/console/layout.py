"""Text that fits the terminal: tables and paragraphs whose words stay whole, and color where it is wanted.

Widths are counted in the terminal's cells: a character of a wide script takes two.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Callable

from . import output

GAP, INDENT = "  ", "  "
LEAST_PROSE = 40  # cells beside the other columns of a table; with less, prose is below each row
CODES = re.compile(r"(\x1b\[[0-9]*m)")
LEAST_FIRST = 20  # cells, or a third of the line: a longer first cell takes a line of its own where room is short
STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}

Paint = Callable[[str, str], str]  # the name of a column and the text of a cell -> a style, or ""


def width(stream: Any = None) -> int | None:
    """Cells in a line of the terminal; elsewhere what COLUMNS says, None if that is not set."""
    if (stream or sys.stdout).isatty():
        return max(20, shutil.get_terminal_size().columns)
    asked = os.environ.get("COLUMNS", "")
    return max(20, int(asked)) if asked.isdecimal() and len(asked) < 6 else None


def is_colored(stream: Any = None) -> bool:
    """Whether color is shown: on a terminal, unless NO_COLOR is set or the terminal has none."""
    return (stream or sys.stdout).isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, style: str) -> str:
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if style else text


def show(lines: Iterable[str]) -> None:
    """Print lines with styles in them, and no other control sequences."""
    for line in lines:
        print("".join(part if CODES.fullmatch(part) else output.printable(part) for part in CODES.split(line)),
              file=output.bare(sys.stdout))


def cells(text: str) -> int:
    """The cells that a text takes, styles aside."""
    text = CODES.sub("", text) if "\x1b" in text else text
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def clipped(text: str, room: int) -> str:
    """At most so many cells of a text: whole words, and an ellipsis for what is missing."""
    if cells(text) <= room:
        return text
    kept = text[:room - 1]
    while cells(kept) > room - 1:
        kept = kept[:-1]
    return f"{kept.rpartition(' ')[0] or kept}…"


def wrapped(text: str, room: int | None, indent: str = "") -> list[str]:
    """Lines of whole words, indented except for the first. A word that is longer than a line stays whole."""
    lines: list[str] = []
    for word in output.printable(text).split():
        if lines and (room is None or cells(lines[-1]) + 1 + cells(word) <= room):
            lines[-1] += f" {word}"
        else:
            lines.append(f"{indent if lines else ''}{word}")
    return lines or [""]


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1, room: int | None = None, *,
          prose: bool = False, optional: Sequence[str] = (), rule: bool = False,
          paint: Paint | None = None) -> list[str]:
    """The lines of a table, its columns two spaces apart.

    Where it does not fit into a line, prose goes below each row, then first cells that are long take a line of their
    own, and at last columns are dropped.

    Args:
        left: The first so many columns are flush left, the others flush right.
        prose: The last column is text, which is wrapped.
        optional: Columns that may be dropped, the least important first; of these, empty ones before all.
        rule: Draw a line below the header.
        paint: Styles of the cells; the header is bold then.
    """
    shown = [[output.printable(cell) for cell in row] for row in (header, *rows)]
    texts = [row.pop() for row in shown] if prose else []
    widths = [max(map(cells, column)) for column in zip(*shown)]

    def missing() -> int:
        """Cells by which a line is too short for the columns."""
        return 0 if room is None else max(0, _total(widths) - room)

    def has_room_for_prose() -> bool:
        return prose and (room is None or room - _total(widths) - len(GAP) >= LEAST_PROSE)

    if missing() or not has_room_for_prose():
        widths[0] = _longest(shown, max(LEAST_FIRST, (room or widths[0]) // 3))
    beside = has_room_for_prose()
    empty = [name for at, name in enumerate(shown[0]) if not any(row[at] for row in shown[1:])]
    for name in sorted(optional, key=lambda name: name not in empty):
        if missing() and name in shown[0]:
            at = shown[0].index(name)
            left -= at < left
            for cells_of in (widths, *shown):
                del cells_of[at]  # type: ignore[attr-defined]
    widths[0] = _longest(shown, widths[0] - missing())
    lines = []
    for number, row in enumerate(shown):
        of_row = _row(row, shown[0], widths, left, room, paint and (paint if number else lambda *_: "bold"))
        if prose:
            style = paint(header[-1], texts[number]) if paint and number else "bold" if paint else ""
            of_row = _with_prose(of_row, texts[number], _total(widths), room, beside, style, is_header=not number)
        lines += of_row
        if rule and not number:
            lines.append("─" * max(map(cells, of_row)))
    return lines


def _longest(rows: Sequence[Sequence[str]], limit: int) -> int:
    """Cells of the longest first cell within a limit."""
    return max((count for count in (cells(row[0]) for row in rows) if count <= limit), default=0)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _row(row: Sequence[str], header: Sequence[str], widths: Sequence[int], left: int,
         room: int | None, paint: Paint | None) -> list[str]:
    """One line, or the first cell above the others if it is too long."""
    def padded(at: int, text: str) -> str:
        gap = " " * (widths[at] - cells(text))
        return style(at, text) + gap if at < left else gap + style(at, text)

    def style(at: int, text: str) -> str:
        return styled(text, paint(header[at], text)) if paint and text else text

    above = cells(row[0]) > widths[0]
    line = GAP.join(padded(at, "" if above and at == 0 else text) for at, text in enumerate(row)).rstrip()
    return [*(style(0, part) for part in wrapped(row[0], room, INDENT)), line] if above else [line]


def _with_prose(of_row: list[str], text: str, used: int, room: int | None, beside: bool,
                style: str, is_header: bool) -> list[str]:
    if not beside:
        below = wrapped(text, (room or 0) - len(INDENT)) if text and not is_header else []
        return [*of_row, *(INDENT + styled(line, style) for line in below)]
    first, *more = wrapped(text, None if room is None else room - used - len(GAP))
    gap = " " * (used - cells(of_row[-1])) + GAP
    return [*of_row[:-1], (of_row[-1] + gap + styled(first, first and style)).rstrip(),
            *(f"{' ' * used}{GAP}{styled(line, style)}" for line in more)]
