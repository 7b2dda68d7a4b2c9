"""What a disturbed run's jobs held is accounted for to the second, against what others recorded of the same jobs."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest
from small import await_state, job_flags, logs_of, verb, wait_until

from ecm_cluster.reporting import goodput
from ecm_cluster.rundir.run import Run

pytestmark = pytest.mark.slow

STAMP = "%Y-%m-%d %H:%M:%S"


def task_of(run: Run, attempt: int, rank: int) -> int:
    return next(e["pid"] for e in run.events() if e.kind == "start" and e.attempt == attempt and e["rank"] == rank)


def held_by_the_driver(run: Run) -> float:
    """From the driver's first line to its last: on one machine it has a job at every moment."""
    stamps = re.findall(r"^(\d{4}-\S+ \S+) ", run.local_log.read_text(), re.MULTILINE)
    return time.mktime(time.strptime(stamps[-1], STAMP)) - time.mktime(time.strptime(stamps[0], STAMP))


def test_a_run_that_was_killed_in_several_ways(small_data, tmp_path):
    verb("submit", *job_flags(small_data, tmp_path, "run", runner__max_epochs=12, checkpoint_config__interval=5),
         "--cluster", "local", "--gpus", 2)
    run = Run(tmp_path / "run")

    def trained(attempt: int, iterations: int) -> None:
        wait_until(lambda: (run.heartbeat(attempt) or {}).get("iteration", 0) >= iterations, "training",
                   look=lambda: logs_of(run))

    trained(1, 9)
    os.kill(task_of(run, 1, 1), signal.SIGTERM)  # all ranks commit and end
    trained(2, 28)
    task = task_of(run, 2, 0)
    os.kill(int(Path(f"/proc/{task}/task/{task}/children").read_text().split()[0]), signal.SIGKILL)
    wait_until(lambda: run.newest_attempt() == 3, "the third attempt")
    await_state(run, "done")
    wait_until(lambda: "evaluate: done" in run.local_log.read_text(), "the driver's last line", 60)
    found = goodput.account(run)
    seconds = {kind: value / 2 for kind, value in found.seconds.items()}
    assert sum(seconds.values()) == pytest.approx(found.held / 2)
    evaluations = 1 + len(run.evaluations())  # between two jobs the driver decides, and starts the next
    assert found.held / 2 == pytest.approx(held_by_the_driver(run), abs=1 + 0.5 * (2 + evaluations)), seconds
    assert not found.estimated, "all of it is on record"
    first, second, third = found.attempts
    assert (first.cause, first.lost) == ("signalled", 0) and second.cause == "killed" and third.cause == "complete"
    assert third.first == max(filter(None, (first.committed, second.committed)))
    assert sum(a.gained for a in found.attempts) == third.last, "each iteration counts once"
    assert (seconds["redone"] > 0) == (second.lost > 0), "it may have been killed right after a commit"
    assert all(seconds[kind] > 0 for kind in ("productive", "start-up", "saving", "evaluation", "idle"))
    assert seconds["hung"] == seconds["not started"] == 0
