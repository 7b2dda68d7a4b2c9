"""Many files are read by several threads, each once, and what was read is known afterwards."""

from __future__ import annotations

import os
import threading
import time
from unittest import mock

import pytest

from ecm_cluster.base import fileserver
from ecm_cluster.base.reading import Unreadable, read_bytes
from ecm_cluster.rundir import records


def waited(item: int) -> int:
    time.sleep(0.002)
    return 2 * item


@pytest.mark.parametrize("count", [0, 1, 5, 100])
def test_results_come_in_the_order_of_the_items(count):
    with fileserver.Footprint().noting():
        assert fileserver.each(waited, range(count)) == [2 * item for item in range(count)]


def test_what_trains_starts_no_threads_for_a_few_files():
    used: set[str] = set()
    fileserver.each(lambda item: used.add(threading.current_thread().name), range(10))
    assert used == {threading.current_thread().name}


def test_the_first_error_is_raised_and_ends_the_rest():
    done = []

    def act(item: int) -> None:
        waited(item)
        if item in (5, 7):
            raise ValueError(item)
        done.append(item)

    with pytest.raises(ValueError, match="5"):
        fileserver.each(act, range(1000))
    assert len(done) < 100


def test_a_call_within_another_has_threads_only_for_many_items():
    def inner(count: int) -> int:
        names: set[str] = set()
        fileserver.each(lambda item: names.add(threading.current_thread().name) or waited(item), range(count))
        return len(names)

    assert fileserver.each(inner, [20] * 20) == [1] * 20
    assert fileserver.each(inner, [70] * 4, threads=2)[0] > 1


def test_where_no_thread_can_start_this_one_does_it_all():
    with mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread")):
        assert fileserver.each(waited, range(20)) == [2 * item for item in range(20)]


def test_a_footprint_knows_what_was_read_in_which_state_and_what_was_missing(tmp_path):
    (tmp_path / "a").write_text("1")
    footprint = fileserver.Footprint()
    with footprint.noting():
        read_bytes(tmp_path / "a")
        assert fileserver.names_in(tmp_path) == ["a"]
        assert fileserver.names_in(tmp_path / "none") == []
        with pytest.raises(FileNotFoundError):
            records.read(tmp_path / "b", {})
    read_bytes(tmp_path / "a")
    assert footprint.stamps == {
        str(tmp_path / "a"): fileserver.stamp(os.stat(tmp_path / "a")), str(tmp_path / "none"): None,
        str(tmp_path): fileserver.stamp(os.stat(tmp_path)), str(tmp_path / "b"): None}


def test_within_a_footprint_a_record_is_read_once_also_a_damaged_one(tmp_path):
    path, shape = tmp_path / "a.json", {"x": int}
    footprint = fileserver.Footprint()
    path.write_text('{"x": 1}')
    (tmp_path / "b.json").write_text("{")
    for _ in range(2):
        with footprint.noting():
            assert records.read(path, shape) == {"x": 1}
            with pytest.raises(Unreadable):
                records.read(tmp_path / "b.json", shape)
        path.write_text('{"x": 2}')
        (tmp_path / "b.json").write_text('{"x": 2}')
    assert records.read(path, shape) == {"x": 2}


def test_anything_else_than_a_directory_has_no_names(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    assert fileserver.names_in(tmp_path) == ["file", "folder", "loop"]
    assert fileserver.names_in(tmp_path, folders=True) == ["folder"]
    assert [fileserver.names_in(tmp_path / name) for name in ("loop", "file", "folder", "none")] == [[]] * 4
