"""The append-only record."""

from __future__ import annotations

from ecm_cluster import ledger
from ecm_cluster.ledger import Ledger


def test_events_come_back_in_the_order_attempt_writer_sequence_whatever_the_clock_says(tmp_path, monkeypatch):
    clock = iter([300.0, 100.0, 200.0, 50.0])
    monkeypatch.setattr(ledger.time, "time", lambda: next(clock))
    second = Ledger(tmp_path, 2, "task000")
    first = Ledger(tmp_path, 1, "task000")
    second.write("start")
    first.write("start")
    first.write("end", cause="preempted")
    Ledger(tmp_path, 1, "batch").write("end")
    assert [(e.attempt, e.writer, e.sequence) for e in ledger.read(tmp_path)] == [
        (1, "batch", 1), (1, "task000", 1), (1, "task000", 2), (2, "task000", 1)]


def test_a_line_torn_by_a_kill_is_passed_over_and_the_next_event_is_not_lost(tmp_path):
    writer = Ledger(tmp_path, 1, "task000")
    writer.write("start")
    with open(writer.path, "ab") as handle:
        handle.write(b'{"sequence": 2, "kind": "com')
    again = Ledger(tmp_path, 1, "task000")
    again.write("end", cause="killed")
    assert [(e.sequence, e.kind) for e in ledger.read(tmp_path)] == [(1, "start"), (2, "end")]


def test_two_writers_never_share_a_file(tmp_path):
    Ledger(tmp_path, 1, "task000").write("start")
    Ledger(tmp_path, 1, "task001").write("start")
    assert len(list(tmp_path.iterdir())) == 2


def test_fields_keep_their_values(tmp_path):
    Ledger(tmp_path, 3, "train000").write("commit", checkpoint="iter.pth", seconds=0.25)
    event = ledger.read(tmp_path)[0]
    assert (event["checkpoint"], event["seconds"], event.get("missing", "none")) == ("iter.pth", 0.25, "none")


def test_a_folder_that_is_not_there_holds_no_events(tmp_path):
    assert ledger.read(tmp_path / "none") == []
