"""What ``--wait`` prints: one line that is rewritten on a terminal, however narrow; in a log a line per change."""

from __future__ import annotations

import pytest

from ecm_cluster.console import layout
from ecm_cluster.reporting.run_state import RunState
from ecm_cluster.watching import follow

TRAINING = RunState("run", "", "running", "training, after: rank 1 of 日本 was killed; warning: no heartbeat",
                    attempt=12, iteration=12000, iterations=90000, loss=0.512, seconds_per_iteration=0.43)


@pytest.mark.parametrize("room", [40, 60, 80, 200])
def test_a_terminal_keeps_one_line_with_what_changes_first(capsys, monkeypatch, room):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(room))
    follow._show(TRAINING, "")
    out = capsys.readouterr().out
    line = out[len("\r\x1b[K"):]
    assert out.startswith("\r\x1b[K") and "\n" not in out
    assert layout.cells(line) < room, "the last cell stays free, or some terminals begin a new line"
    assert line.startswith("running: iteration 12000/90000") and (room < 200 or line.endswith("no heartbeat"))


def test_an_end_is_shown_as_a_whole(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    reason = "rank 0: ValueError: " + "x " * 40 + "END"
    follow._show(RunState("run", "", "failed", reason), "")
    assert capsys.readouterr().out.endswith("END\n")


def test_a_log_gets_a_line_per_change_in_the_form_that_it_had(capsys):
    key = follow._show(TRAINING, "")
    assert follow._show(TRAINING, key) == key
    assert capsys.readouterr().out == (f"running: {TRAINING.reason}; attempt 12, iteration 12000/90000, loss 0.512, "
                                       "0.43 s/iteration\n")
