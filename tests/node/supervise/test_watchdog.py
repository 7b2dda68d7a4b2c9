"""Silence and its limits: what counts as hung, and what only waits."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import Any

import pytest
from small import wait_until

from ecm_cluster.node.supervise import watchdog
from ecm_cluster.node.supervise.watchdog import Neighbours, Process, Silence, Watchdog
from ecm_cluster.rundir.run import Run

HOUR = 3600.0


class Worker:
    """What a watchdog is asked about: a worker whose time the tests set."""

    def __init__(self, seconds: float = HOUR) -> None:
        self.now, self.beats = 1000.0, 0
        self.process = Process("S", 5.0)
        self.dog = Watchdog(seconds, lambda: self.now)
        self.record: dict = {}

    def beat(self, **progress: Any) -> None:
        self.beats += 1
        self.record = {**progress, "beats": self.beats}

    def after(self, seconds: float, step: float = 1.0, **look: Any) -> Silence | None:
        """What the watchdog says in the next ``seconds``, asked every ``step``."""
        end = self.now + seconds
        while self.now < end:
            self.now += step
            said = self.dog.silent(self.record, self.process, **look)
            if said:
                return said
        return None


@pytest.fixture
def worker() -> Worker:
    made = Worker()
    made.beat(phase="training", iteration=7)
    return made


@pytest.mark.parametrize(("beat", "limit"), [
    ({}, HOUR), ({"phase": "starting"}, HOUR), ({"phase": "first iteration"}, HOUR), ({"phase": "saving"}, HOUR),
    ({"phase": "training"}, HOUR / 6), ({"phase": "training", "seconds_per_iteration": 2.0}, HOUR / 6),
    ({"phase": "training", "seconds_per_iteration": 60.0}, 1200.0), ({"phase": "inference"}, HOUR / 6),
    ({"phase": "scoring bbox"}, 2 * HOUR), ({"phase": "waiting for other ranks"}, None),
    ({"phase": "waiting for data"}, None)])
def test_each_phase_has_its_limit(beat, limit):
    assert Watchdog(HOUR).limit(beat) == limit


def test_silence_beyond_the_limit_is_reported_with_its_evidence(worker):
    assert worker.after(590) is None
    worker.process = Process("D", 7.5)
    assert worker.after(60) == Silence("training, iteration 7: no progress for 600 s (process state D, 2.5 s of CPU "
                                       "time in it)", 600.0, Process("D", 2.5))


def test_a_very_slow_step_is_judged_by_the_limit_although_it_computes(worker):
    worker.process = Process("R", 5.0)
    said = worker.after(900)
    assert said is not None and said.seconds == 600


def test_any_news_ends_a_silence(worker):
    for _ in range(5):
        assert worker.after(590) is None
        worker.beat(phase="training", iteration=7)


def test_a_worker_that_never_said_anything_has_the_limit_of_a_start():
    worker = Worker()
    assert worker.after(HOUR - 10) is None
    assert worker.after(20).text.startswith("starting: no progress for")


def test_a_rank_that_waits_for_others_is_never_hung(worker):
    worker.beat(phase="waiting for data")
    assert worker.after(10 * HOUR, step=4) is None
    worker.beat(phase="starting")
    assert worker.after(HOUR - 10, step=4) is None


def test_zero_means_never():
    assert Worker(seconds=0).after(10 * HOUR, step=4) is None


def test_the_time_in_which_the_whole_job_was_suspended_is_not_silence(worker):
    for _ in range(20):  # as with gang scheduling
        assert worker.after(25) is None
        worker.now += 5 * HOUR
    assert worker.after(95) is None
    assert worker.after(30).seconds == pytest.approx(600, abs=2)


@pytest.mark.parametrize("state", ["T", "t"])
def test_the_time_in_which_the_worker_alone_was_stopped_is_not_silence(worker, state):
    assert worker.after(300) is None
    worker.process = Process(state, 5.0)
    assert worker.after(10 * HOUR, step=4) is None
    worker.process = Process("S", 5.0)
    assert worker.after(290) is None
    assert worker.after(20) is not None


def test_the_time_in_which_shared_storage_does_not_answer_is_not_silence(worker):
    assert worker.after(10 * HOUR, step=4, storage_answers=False) is None
    assert worker.after(590) is None
    assert worker.after(20) is not None


def test_the_kernel_says_whether_a_process_is_stopped_and_what_it_has_computed():
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        wait_until(lambda: watchdog.look_at(busy.pid).cpu_seconds > 0.1, "it computes", 30)
        busy.send_signal(signal.SIGSTOP)
        wait_until(lambda: watchdog.look_at(busy.pid).state == "T", "it is stopped", 30)
        before = watchdog.look_at(busy.pid).cpu_seconds
        busy.send_signal(signal.SIGCONT)
        wait_until(lambda: watchdog.look_at(busy.pid).cpu_seconds > before, "it continues", 30)
    finally:
        busy.kill()
        busy.wait()
    assert watchdog.look_at(busy.pid) == Process("?", 0.0)


def test_a_neighbour_that_died_without_a_record_is_lost_and_one_that_left_is_not(tmp_path):
    run = Run(tmp_path)
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
from ecm_cluster.node.supervise.watchdog import Siblings

siblings = Siblings(int(sys.argv[1]))
for _ in sys.stdin:
    siblings._looked = 0.0  # it looks every two seconds
    print(siblings.gone(), flush=True)
"""


def test_a_task_that_waits_for_an_attempt_is_reported_when_a_sibling_has_gone(root):
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
    wait_until(lambda: asked() == "True", "it is reported", 30)
    parent.communicate()
