"""Tables and paragraphs on terminals of every width: words stay whole, nothing is cut, columns stay aligned."""

from __future__ import annotations

import io
import os

import pytest

from ecm_cluster.console import layout

LONG = "mask_rcnn_r50_fpn_1x_lvis_v1_ecm_seed_0_with_a_name_of_sixty"
HEADER = ("run", "state", "epoch", "iteration", "why")
ROWS = [("a", "running", "3", "12000/90000", "warning: commits have failed for 3 h (No space left on device)"),
        (LONG, "failed", "", "", "rank 0: ValueError: /a/path/that/is/long/and/has/no/space/in/it.py")]
TEXT = {word for row in (HEADER, *ROWS) for cell in row for word in cell.split()}


@pytest.mark.parametrize("room", [40, 60, 80, 100, 160, None])
def test_the_words_of_a_table_stay_whole_at_any_width(room):
    lines = layout.table(HEADER, ROWS, 2, room, prose=True, optional=("epoch",))
    words = {word for line in lines for word in line.split()}
    assert words <= TEXT and words >= TEXT - {"epoch", "3", "why"}
    assert all(room is None or layout.cells(line) <= room or len(line.split()) == 1 for line in lines)


def test_what_does_not_fit_is_moved_below_then_dropped_then_given_a_line_of_its_own():
    header, rows = ("run", "loss", "state", "why"), [("abcdefgh", "0.1", "running", "one two three"),
                                                     ("b", "0.2", "failed", "four")]

    def at(room):
        return layout.table(header, rows, 1, room, prose=True, optional=("loss",))

    assert at(80)[1] == "abcdefgh   0.1  running  one two three"
    assert at(30)[:3] == ["run       loss    state", "abcdefgh   0.1  running", "  one two three"]
    assert at(20)[:3] == ["run         state", "abcdefgh  running", "  one two three"]
    assert at(12)[:4] == ["run    state", "abcdefgh", "     running", "  one two"]


def test_empty_columns_are_dropped_before_full_ones():
    lines = layout.table(("run", "a", "b"), [("x", "12345678", ""), ("y", "", "")], 1, 13, optional=("a", "b"))
    assert lines[0].split() == ["run", "a"]


def test_wide_characters_take_two_cells():
    lines = layout.table(("run", "n"), [("日本", "1"), ("abcd", "2")])
    assert lines == ["run   n", "日本  1", "abcd  2"]
    assert layout.wrapped("日本 日本 日本", 10) == ["日本 日本", "日本"]
    assert layout.clipped("日本日本", 5) == "日本…" and layout.clipped("日本", 4) == "日本"


def test_control_characters_are_spelled_before_they_are_measured():
    assert layout.table(("run", "n"), [("a\x1b[2J", "1"), ("b", "2")]) == [
        "run       n", r"a\x1b[2J  1", "b         2"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_width_is_that_of_the_terminal_or_of_columns(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert layout.width(io.StringIO()) is None
    for text, room in (("80", 80), ("3", 20), ("x", None), ("", None), ("²", None), ("9" * 30, None)):
        monkeypatch.setenv("COLUMNS", text)
        assert layout.width(io.StringIO()) == room, text
    monkeypatch.setenv("COLUMNS", "61")
    assert layout.width(Terminal()) == 61
    monkeypatch.delenv("COLUMNS")
    monkeypatch.setattr(layout.shutil, "get_terminal_size", lambda: os.terminal_size((70, 24)))
    assert layout.width(Terminal()) == 70


def test_color_is_for_terminals_that_have_it_and_users_who_want_it(monkeypatch):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    assert layout.is_colored(Terminal()) and not layout.is_colored(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not layout.is_colored(Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not layout.is_colored(Terminal())


def test_a_style_takes_no_cells():
    plain = layout.table(HEADER, ROWS, 2, 100, prose=True)
    colored = layout.table(HEADER, ROWS, 2, 100, prose=True, paint=lambda column, cell: "red" * (column == "state"))
    assert "\x1b[31mrunning\x1b[0m" in colored[1] and [layout.CODES.sub("", line) for line in colored] == plain


def test_only_styles_reach_the_terminal(capsys):
    layout.show([layout.styled("a\x1b[2J", "red") + "\x9b"])
    assert capsys.readouterr().out == "\x1b[31ma\\x1b[2J\x1b[0m\\x9b\n"
