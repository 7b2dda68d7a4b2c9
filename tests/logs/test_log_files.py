"""Logs by attempt, their last lines, and what is added to them, in blocks of any size."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecm_cluster.logs import log_files
from ecm_cluster.logs.log_files import Growing, Lines, Part

BLOCKS = [3, 7, 300, 1 << 18]
LINES = st.lists(st.sampled_from(["", "a", "---- attempt 2, job 7 on n1, rank 0 of 1", "x" * 290, "—ü"]), max_size=12)


def written(folder: Path, data: bytes) -> Path:
    path = folder / "log"
    path.write_bytes(data)
    return path


def shown(part: Part) -> str:
    return "".join(log_files.text_of(part))


@settings(max_examples=60)
@given(lines=LINES, count=st.integers(0, 15), block=st.sampled_from(BLOCKS), ends=st.booleans())
def test_the_last_lines_are_those_of_the_whole_text(tmp_path_factory, lines, count, block, ends):
    text = "\n".join(lines) + ("\n" if ends and lines else "")
    path = written(tmp_path_factory.mktemp("logs"), text.encode())
    with mock.patch.object(log_files, "BLOCK", block):
        expected = text.splitlines()
        assert shown(log_files.last_lines([Part(path)], count)[0]).splitlines() == expected[len(expected) - min(
            count, len(expected)):]


def test_the_last_lines_of_several_logs_begin_in_the_first_that_has_them(tmp_path):
    parts = [Part(written(folder, text)) for folder, text in
             ((tmp_path / "a", b"1\n2\n3\n"), (tmp_path / "b", b""), (tmp_path / "c", b"4\n5\n"))
             if folder.mkdir() is None]
    assert "".join(map(shown, log_files.last_lines(parts, 3))) == "3\n4\n5\n"
    assert "".join(map(shown, log_files.last_lines(parts, 9))) == "1\n2\n3\n4\n5\n"


@pytest.mark.parametrize("block", BLOCKS)
def test_an_attempt_begins_with_the_line_that_names_it(tmp_path, block):
    text = ("---- attempt 1, job 7 on n1, rank 0 of 1\none\nsaid ---- attempt 9, job 7\n" + "x" * 700
            + "\n---- attempt 2, job 7 on n1, rank 0 of 1\ntwo\n---- attempt 12, job 8 on n1, rank 0 of 1\n")
    path = written(tmp_path, text.encode())
    with mock.patch.object(log_files, "BLOCK", block):
        assert [number for number, _ in log_files.sections(path, log_files.OF_RANK)] == [1, 2, 12]
        assert shown(log_files.of_attempt(path, log_files.OF_RANK, 2)[0]).endswith("of 1\ntwo\n")
        assert log_files.of_attempt(path, log_files.OF_RANK, 3) == []


def test_what_would_act_on_a_terminal_is_resolved_or_escaped_and_no_line_is_lost():
    lines = Lines()
    assert lines.add(b"\x1b[31mred\x1b[0m 10%\r20%\r30%") == "red 10%\n20%\n"
    assert lines.add(b"\r\n\xff\x1b]0;title\x07\npartial") == "30%\n\\xff\x1b]0;title\x07\n"  # printable() is for these
    assert lines.rest() == "partial\n"
    assert lines.rest() == ""
    assert len(lines.add(b"y" * 100_000)) == 100_000, "a line without an end is not kept indefinitely"


def test_a_log_is_followed_into_a_new_file_and_after_a_truncation(tmp_path):
    path = tmp_path / "log"
    log = Growing(path)

    def added() -> str:
        return "".join(log.read())

    assert added() == ""
    path.write_text("one\ntw")
    assert added() == "one\n"
    with path.open("a") as handle:
        handle.write("o\nthree\n")
    os.rename(path, tmp_path / "log.1")
    assert added() == "two\nthree\n", "until it is there again, the one that was moved away"
    path.write_text("new\n")
    assert added() == "new\n"
    path.write_text("")
    assert added() == ""
    path.write_text("again\n")
    assert added() == "again\n"
    path.unlink()
    os.mkfifo(path)
    assert added() == "", "anything else is not waited for"
    log.close()


def test_the_end_of_a_large_log_is_read_alone(tmp_path):
    path = tmp_path / "log"
    with path.open("wb") as handle:
        handle.truncate(1 << 34)  # 16 GiB, in no block
        handle.seek(0, os.SEEK_END)
        handle.write(b"\nlast but one\nlast\n")
    with mock.patch.object(os, "pread", wraps=os.pread) as pread:
        assert shown(log_files.last_lines([Part(path)], 2)[0]) == "last but one\nlast\n"
    assert pread.call_count <= 3
