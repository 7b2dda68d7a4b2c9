"""Silence and its limits: what counts as hung, and what only waits."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest
from small import wait_until

from ecm_cluster.node.watchdog import Neighbours, Watchdog
from ecm_cluster.run import Run, write_heartbeat

HOUR = 3600.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def run(tmp_path) -> Run:
    made = Run(tmp_path)
    made.attempts_dir.mkdir()
    return made


def after(dog: Watchdog, clock: Clock, seconds: float, step: float = 10.0) -> str | None:
    """What the watchdog says in the next ``seconds``, asked every ``step``."""
    end = clock.now + seconds
    while clock.now < end:
        clock.now += step
        said = dog.silent()
        if said:
            return said
    return None


@pytest.mark.parametrize(("beat", "limit"), [
    (None, HOUR), ({"phase": "starting"}, HOUR), ({"phase": "first iteration"}, HOUR), ({"phase": "saving"}, HOUR),
    ({"phase": "training"}, HOUR / 6), ({"phase": "training", "seconds_per_iteration": 2.0}, HOUR / 6),
    ({"phase": "training", "seconds_per_iteration": 60.0}, 1200.0), ({"phase": "inference"}, HOUR / 6),
    ({"phase": "scoring bbox"}, 2 * HOUR), ({"phase": "waiting for other ranks"}, None)])
def test_each_phase_has_its_limit(run, beat, limit):
    assert Watchdog(run, 1, 0, 1, HOUR).limit(beat) == limit


def test_silence_beyond_the_limit_is_told_with_phase_and_iteration(run):
    clock = Clock()
    dog = Watchdog(run, 1, 0, 1, HOUR, clock)
    write_heartbeat(run, 1, 0, phase="training", iteration=7)
    assert after(dog, clock, 590) is None
    assert after(dog, clock, 60) == "training, iteration 7: no rank was heard of for 600 s"


def test_a_rank_that_waits_for_a_busy_one_is_not_hung(run):
    clock = Clock()
    dog = Watchdog(run, 1, 0, 2, HOUR, clock)
    write_heartbeat(run, 1, 0, phase="training", iteration=7)
    for step in range(20):
        write_heartbeat(run, 1, 1, phase="staging", done=step)
        assert after(dog, clock, 250) is None
    assert after(dog, clock, 2 * HOUR) is not None


def test_zero_means_never(run):
    clock = Clock()
    assert after(Watchdog(run, 1, 0, 1, 0, clock), clock, 10 * HOUR) is None


def test_the_time_in_which_the_whole_job_was_suspended_is_not_silence(run):
    clock = Clock()
    dog = Watchdog(run, 1, 0, 1, HOUR, clock)
    write_heartbeat(run, 1, 0, phase="training", iteration=7)
    assert after(dog, clock, 100) is None
    clock.now += 5 * HOUR
    assert after(dog, clock, 300) is None


def test_a_neighbour_that_died_without_a_word_is_lost_and_one_that_left_is_not(run, monkeypatch):
    gone = subprocess.Popen(["true"])
    gone.wait()
    for rank, pid in ((1, os.getpid()), (2, gone.pid)):
        run.ledger(1, f"task{rank:03d}").write("start", rank=rank, pid=pid, host=socket.gethostname())
    near = Neighbours(run, 1, 0, 3)
    near._looked = -100.0
    assert near.lost() == 2
    run.ledger(1, "task002").write("left", rank=2)
    near._looked = -100.0
    assert near.lost() is None


WATCHED = """
import sys, time
from ecm_cluster.node.watchdog import Siblings

siblings = Siblings(int(sys.argv[1]))
for _ in sys.stdin:
    siblings._looked = 0.0  # it looks every two seconds
    print(siblings.gone(), flush=True)
"""


def test_a_task_that_waits_for_an_attempt_is_told_when_a_sibling_has_gone(root):
    # the shell is the parent of both
    parent = subprocess.Popen(["sh", "-c", 'sleep 60 & echo $!; "$0" -c "$1" 2; true', sys.executable, WATCHED],
                              cwd=root, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdin and parent.stdout
    sibling = int(parent.stdout.readline())

    def asked() -> str:
        assert parent.stdin and parent.stdout
        print("?", file=parent.stdin, flush=True)
        return parent.stdout.readline().strip()

    try:
        assert asked() == "False"
    finally:
        os.kill(sibling, signal.SIGKILL)
    wait_until(lambda: asked() == "True", "it is told", 30)
    parent.communicate()
