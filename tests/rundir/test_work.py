"""What a run and an evaluation have in common: the heartbeat, and how long ago the last sign of life was."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from ecm_cluster.rundir import work as works
from ecm_cluster.rundir.work import Work


@pytest.fixture
def work(tmp_path) -> Work:
    made = Work(tmp_path)
    made.attempts_dir.mkdir()
    return made


def aged(path: Path, seconds: float) -> None:
    """As if it had been written so long ago, on the file server."""
    path.touch()
    stamp = os.stat(path).st_mtime - seconds
    os.utime(path, (stamp, stamp))


def refuses(folder: Path) -> float:
    raise PermissionError(13, "Permission denied", str(folder))


def test_an_attempt_without_a_heartbeat_gave_no_sign_of_life(work):
    assert work.seconds_since_heartbeat(1) is None


def test_the_age_of_a_heartbeat_is_measured_by_the_file_servers_clock_only(work, monkeypatch):
    aged(work.heartbeat_file(1), 90)
    monkeypatch.setattr(works.time, "time", lambda: 5.0)
    assert work.seconds_since_heartbeat(1) == pytest.approx(90, abs=5)
    assert [path.name for path in work.attempts_dir.iterdir()] == [work.heartbeat_file(1).name]


def test_a_heartbeat_of_an_earlier_version_is_a_sign_of_life_too(work):
    aged(work.heartbeat_file(1, 0), 30)
    assert work.seconds_since_heartbeat(1) == pytest.approx(30, abs=5)


def test_a_heartbeat_from_the_future_has_age_zero(work):
    aged(work.heartbeat_file(1), -100)
    assert work.seconds_since_heartbeat(1) == 0


def test_where_nothing_can_be_written_a_heartbeat_is_watched_if_that_is_asked_for(work, monkeypatch):
    aged(work.heartbeat_file(1), 90)
    monkeypatch.setattr(works.files, "server_time", refuses)
    assert work.seconds_since_heartbeat(1) is None
    assert work.seconds_since_heartbeat(1, watch=0.2) == float("inf")
    beating = threading.Thread(target=lambda: (time.sleep(0.2), work.heartbeat_file(1).touch()))
    beating.start()
    assert work.seconds_since_heartbeat(1, watch=30) == 0
    beating.join()
