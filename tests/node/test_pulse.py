"""A worker's progress in memory that its supervisor reads."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from ecm_cluster.node import pulse
from ecm_cluster.node.pulse import Pulse


@pytest.fixture
def memory():
    made = Pulse()
    yield made
    made.close()


def test_before_the_first_beat_nothing_is_known(memory):
    assert memory.read() == {}


def test_a_supervisor_reads_what_its_worker_said_last_and_that_it_is_news(memory, root):
    said = "from ecm_cluster.node import pulse; pulse.beat(phase='a'); pulse.beat(phase='b', loss=float('nan'))"
    subprocess.run([sys.executable, "-c", said], check=True, cwd=root, pass_fds=[memory.descriptor],
                   env={pulse.ENV: str(memory.descriptor)})
    found = memory.read()
    assert (found["phase"], found["beats"]) == ("b", 2)
    memory.write(phase="b")
    one = memory.read()
    memory.write(phase="b")
    assert one != memory.read(), "a beat that says the same is news"


def test_a_record_that_is_being_rewritten_is_never_taken_for_one(memory):
    writer, ends = Pulse(memory.descriptor), threading.Event()

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
    monkeypatch.setattr(pulse, "_own", None)
    assert pulse.last() == {}
    pulse.beat(phase="training")
    assert pulse.last()["phase"] == "training"
