"""The append-only record."""

from __future__ import annotations

import errno
import json
import os

import pytest

from ecm_cluster.rundir import ledger, ledger_files
from ecm_cluster.rundir.ledger import Ledger


def test_events_come_back_in_the_order_attempt_writer_sequence_regardless_of_the_clock(tmp_path, monkeypatch):
    clock = iter([300.0, 100.0, 200.0, 50.0])
    monkeypatch.setattr(ledger.time, "time", lambda: next(clock))
    second = Ledger(tmp_path, 2, "task000")
    first = Ledger(tmp_path, 1, "task000")
    second.write("began")
    first.write("began")
    first.write("end", cause="preempted")
    Ledger(tmp_path, 1, "batch").write("end", cause="killed")
    assert [(e.attempt, e.writer, e.sequence) for e in ledger.read(tmp_path)] == [
        (1, "batch", 1), (1, "task000", 1), (1, "task000", 2), (2, "task000", 1)]


def test_a_line_truncated_by_a_kill_is_skipped_and_the_next_event_is_not_lost(tmp_path):
    writer = Ledger(tmp_path, 1, "task000")
    writer.write("began")
    with open(writer.path, "ab") as handle:
        handle.write(b'{"sequence": 2, "kind": "com')
    again = Ledger(tmp_path, 1, "task000")
    again.write("end", cause="killed")
    assert [(e.sequence, e.kind) for e in ledger.read(tmp_path)] == [(1, "began"), (2, "end")]


def test_two_writers_never_share_a_file(tmp_path):
    Ledger(tmp_path, 1, "task000").write("began")
    Ledger(tmp_path, 1, "task001").write("began")
    assert len(list(tmp_path.iterdir())) == 2


def test_fields_keep_their_values(tmp_path):
    Ledger(tmp_path, 3, "train000").write("commit", checkpoint="iter.pth", seconds=0.25)
    event = ledger.read(tmp_path)[0]
    assert (event["checkpoint"], event["seconds"], event.get("missing", "none")) == ("iter.pth", 0.25, "none")


def test_a_missing_directory_has_no_events(tmp_path):
    assert ledger.read(tmp_path / "none") == []


# ---------------------------------------------------------------------------------------------- closed attempts


def summary_of(folder, **which):
    return [(e.attempt, e.writer, e.sequence, e.kind) for e in ledger.read(folder, **which)]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def attempts_of(folder, attempts, ranks=3):
    """As ``attempts`` of a run leave it: each new one folds those before it."""
    for number in range(1, attempts + 1):
        if number > 1:
            ledger.fold(folder, number - 1)
        for rank in range(ranks):
            Ledger(folder, number, f"task{rank:03d}").write("began", rank=rank)


def test_the_ledger_of_many_attempts_is_as_many_files_as_the_open_ones_have(tmp_path):
    attempts_of(tmp_path, 9)
    assert [(e.attempt, e["rank"]) for e in ledger.read(tmp_path)] == [(a, r) for a in range(1, 10) for r in range(3)]
    # the newest attempt's, those of the one before it, and the cumulative file with the one that it came from
    assert len(names(tmp_path)) == 3 + 3 + 2


def test_folding_does_not_change_what_is_read(tmp_path):
    Ledger(tmp_path, 0, "submit").write("submitted", stage="train", job_id="7")
    for writer in ("task000", "train000"):
        Ledger(tmp_path, 1, writer).write("began", text='[1]\n{"file": "x", "lines": 9}')
    before = ledger.read(tmp_path)
    for _ in range(3):
        ledger.fold(tmp_path, 1)
        assert ledger.read(tmp_path) == before
    assert names(tmp_path) == ["folded-0001.jsonl"]


def test_a_stale_writers_late_line_is_found_before_and_after_the_next_fold(tmp_path):
    stale = Ledger(tmp_path, 1, "task000")
    stale.write("began")
    ledger.fold(tmp_path, 1)
    stale.write("late")
    expected = [(1, "task000", 1, "began"), (1, "task000", 2, "late")]
    assert summary_of(tmp_path) == expected
    for number in (2, 3, 4):
        ledger.fold(tmp_path, number)
        assert summary_of(tmp_path) == expected
    assert names(tmp_path) == ["folded-0003.jsonl", "folded-0004.jsonl"]
    stale.write("later")  # its file is gone
    Ledger(tmp_path, 1, "task000").write("of a new process")
    expected += [(1, "task000", 3, "later"), (1, "task000", 4, "of a new process")]
    assert summary_of(tmp_path) == summary_of(tmp_path, attempt=1) == summary_of(tmp_path, writer="task000") == expected
    ledger.fold(tmp_path, 4)
    ledger.fold(tmp_path, 4)
    assert summary_of(tmp_path) == expected


def test_a_line_that_meets_the_removal_of_its_file_goes_into_a_new_one(tmp_path, monkeypatch):
    stale = Ledger(tmp_path, 1, "task000")
    stale.write("began")
    synced = ledger.os.fsync

    def remove_first(handle):
        monkeypatch.setattr(ledger.os, "fsync", synced)
        for number in (1, 2):
            (tmp_path / f"folded-{number:04d}.jsonl").write_text("")
        stale.path.unlink()
        synced(handle)

    monkeypatch.setattr(ledger.os, "fsync", remove_first)
    stale.write("late")
    assert [e.kind for e in ledger.read(tmp_path)] == ["late"]


def test_a_stale_start_neither_folds_nor_removes_what_a_newer_one_has_folded(tmp_path):
    attempts_of(tmp_path, 4)
    before, there = ledger.read(tmp_path), names(tmp_path)
    ledger.fold(tmp_path, 2)
    assert (ledger.read(tmp_path), names(tmp_path)) == (before, there)


def test_one_attempt_is_read_without_the_others(tmp_path, monkeypatch):
    attempts_of(tmp_path, 5)
    opened = []
    monkeypatch.setattr(ledger_files, "read_bytes", lambda path, limit: opened.append(path.name) or path.read_bytes())
    assert len(ledger.read(tmp_path, attempt=5)) == 3
    assert sorted(opened) == ["0005-task000.jsonl", "0005-task001.jsonl", "0005-task002.jsonl"]
    assert summary_of(tmp_path, attempt=2, writer="task001") == [(2, "task001", 1, "began")]


def test_a_reader_whose_listing_is_old_finds_everything(tmp_path, monkeypatch):
    attempts_of(tmp_path, 5)
    before, old = ledger.read(tmp_path), ledger.os.listdir(tmp_path)
    ledger.fold(tmp_path, 5)  # removes what the listing still names
    listings = iter([old])
    real = ledger.os.listdir
    monkeypatch.setattr(ledger.os, "listdir", lambda folder: next(listings, None) or real(folder))
    assert ledger.read(tmp_path) == before


def test_what_an_earlier_version_wrote_is_folded_and_its_code_reads_what_a_verb_writes_now(tmp_path):
    (tmp_path / "0001-task000.jsonl").write_text('{"sequence": 1, "kind": "began", "time": 1.0}\n'
                                                 '{"sequence": 2, "kind": "end", "time": 2.0, "cause": "killed"}\n')
    Ledger(tmp_path, 1, "resume").write("resumed", stages=[])
    assert {"sequence", "kind", "time"} <= set(json.loads((tmp_path / "0001-resume.jsonl").read_text()))
    for _ in range(2):
        ledger.fold(tmp_path, 1)
    assert summary_of(tmp_path) == [(1, "resume", 1, "resumed"), (1, "task000", 1, "began"), (1, "task000", 2, "end")]


# ---------------------------------------------------------------------------------------------- storage that fails


def failing(monkeypatch, number):
    """The disk takes no line until ``repair()`` is called."""
    synced = ledger.os.fsync

    def refuse(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(ledger.os, "fsync", refuse)
    return lambda: monkeypatch.setattr(ledger.os, "fsync", synced)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.ESTALE])
def test_what_a_patient_writer_cannot_write_comes_with_its_next_event(tmp_path, monkeypatch, capsys, number):
    writer = Ledger(tmp_path, 1, "train000", patient=True)
    repair = failing(monkeypatch, number)
    writer.write("not-committed", iteration=1)
    writer.write("not-committed", iteration=2)
    assert capsys.readouterr().err == f"warning: not-committed: not in the ledger yet ({os.strerror(number)})\n"
    repair()
    writer.write("commit", iteration=3)
    assert [e["iteration"] for e in ledger.read(tmp_path)] == [1, 2, 3]


def test_what_any_other_writer_cannot_write_is_an_error_and_not_on_record_later(tmp_path, monkeypatch):
    writer = Ledger(tmp_path, 1, "resume")
    monkeypatch.setattr("builtins.open", lambda *args: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="full"):
        writer.write("resumed", stages=[])
    monkeypatch.undo()
    writer.write("other")
    assert [e.kind for e in ledger.read(tmp_path)] == ["other"]


def test_a_new_writer_reads_nothing(tmp_path, monkeypatch):
    Ledger(tmp_path, 1, "task000").write("began")
    monkeypatch.setattr(ledger_files, "read_bytes", lambda path, limit: pytest.fail(f"reads {path}"))
    Ledger(tmp_path, 1, "task000").write("end", cause="killed")
