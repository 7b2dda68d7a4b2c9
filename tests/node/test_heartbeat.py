"""A worker's progress in memory that its supervisor reads."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from ecm_cluster.node import heartbeat
from ecm_cluster.node.heartbeat import HeartbeatMemory
from ecm_cluster.rundir.run import Run


@pytest.fixture
def memory():
    made = HeartbeatMemory()
    yield made
    made.close()


def test_before_the_first_beat_nothing_is_known(memory):
    assert memory.read() == {}


def test_a_supervisor_reads_what_its_worker_said_last_and_that_it_is_news(memory, root):
    said = "from ecm_cluster.node.heartbeat import beat; beat(phase='a'); beat(phase='b', loss=float('nan'))"
    subprocess.run([sys.executable, "-c", said], check=True, cwd=root, pass_fds=[memory.descriptor],
                   env={heartbeat.ENV: str(memory.descriptor)})
    found = memory.read()
    assert (found["phase"], found["beats"]) == ("b", 2)
    memory.write(phase="b")
    one = memory.read()
    memory.write(phase="b")
    assert one != memory.read(), "a beat that says the same is news"


def test_a_record_that_is_being_rewritten_is_never_taken_for_one(memory):
    writer, ends = HeartbeatMemory(memory.descriptor), threading.Event()

    def write() -> None:
        while not ends.is_set():
            for digit in "0123456789":
                writer.write(text=digit * 3000)

    thread = threading.Thread(target=write)
    thread.start()
    for _ in range(500):
        assert len(set(memory.read().get("text", "0"))) == 1
    ends.set()
    thread.join()


def test_a_worker_that_died_while_it_wrote_leaves_what_it_said_before(memory):
    memory.write(phase="training")
    memory.read()
    memory._memory[20:30] = b"0123456789"
    assert memory.read()["phase"] == "training"


def test_a_text_that_is_too_long_is_cut(memory):
    memory.write(phase="training", iteration=7, reason="x" * 100_000)
    found = memory.read()
    assert (found["phase"], found["iteration"], len(found["reason"])) == ("training", 7, 100)


def test_without_a_supervisor_a_beat_goes_nowhere(monkeypatch):
    monkeypatch.setattr(heartbeat, "_own", None)
    assert heartbeat.last() == {}
    heartbeat.beat(phase="training")
    assert heartbeat.last()["phase"] == "training"


def test_counted_work_gives_a_heartbeat_a_second_while_the_count_grows(monkeypatch):
    seen, clock = [], [100.0]
    monkeypatch.setattr(heartbeat, "beat", lambda **record: seen.append(record))
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: clock[0])
    count = heartbeat.Counter()
    for done, seconds in ((1, 0.0), (2, 0.5), (3, 0.6), (3, 5.0), (4, 0.1), (9, 0.1), (9, 0.0)):
        clock[0] += seconds
        count(done, 9, "inference")
    assert [record["done"] for record in seen] == [1, 3, 4, 9]
    assert seen[-1] == {"phase": "inference", "done": 9, "total": 9}


def test_a_training_is_on_record_even_if_each_look_finds_it_saving(memory, tmp_path):
    run = Run(tmp_path)
    run.attempts_dir.mkdir()
    file = heartbeat.HeartbeatFile(run, 1, memory)
    for phase, iteration in (("first iteration", 4), ("saving", 5), ("saving", 9), ("stopped", 12)):
        memory.write(phase=phase, iteration=iteration)
        file.write()
    assert [(e["phase"], e["iteration"]) for e in run.events() if e.kind == "phase"] == [
        ("first iteration", 4), ("training", 5), ("stopped", 12)]
