"""Cancelling: what lives ends and stays ended, and nothing else is touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from small import ROOT, await_state, job_flags, logs_of, state_of, verb, wait_until
from steering import ended_run

from ecm_cluster.base import files
from ecm_cluster.chain import locks
from ecm_cluster.rundir.run import Run


def test_a_run_that_has_ended_has_nothing_to_cancel_and_gets_no_mark(tmp_path):
    run = ended_run(tmp_path / "over")
    done = verb("cancel", run.path)
    assert done.stdout.startswith("over: nothing to cancel (")
    assert not run.cancel_file.exists()


def test_an_unknown_run_is_an_error_before_any_other_is_cancelled(tmp_path):
    run = ended_run(tmp_path / "over")
    done = verb("cancel", run.path, tmp_path / "none", code=2)
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "neither a run directory nor the name" in done.stderr


@pytest.mark.slow
def test_two_that_steer_a_run_at_once_do_not_meet(tmp_path):
    run = ended_run(tmp_path / "busy")
    with locks.run_lock(run):
        verb("resume", run.path, "--dry-run")  # which changes nothing, and waits for nobody
        waiting = [subprocess.Popen([sys.executable, "-m", "ecm_cluster.cancel", str(run.path)], cwd=ROOT,
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        for process in waiting:
            assert process.stderr.readline() == "busy: waiting for another process that is submitting or cancelling " \
                                                "its jobs\n"
            assert process.poll() is None
    for process in waiting:
        assert process.communicate(timeout=60)[1] == "" and process.returncode == 0


@pytest.mark.slow
def test_a_local_run_commits_ends_stays_cancelled_and_comes_back(small_data, tmp_path):
    flags = job_flags(small_data, tmp_path, "run", runner__max_epochs=3)
    verb("submit", *flags, "--cluster", "local")
    run = Run(tmp_path / "run")
    wait_until(lambda: (run.heartbeat(1) or {}).get("iteration", 0) >= 2, "training", look=lambda: logs_of(run))
    assert "is alive (local driver" in verb("resume", run.path, code=2).stderr
    done = verb("cancel", run.path)
    assert "cancelled driver" in done.stdout and "newest checkpoint: iter_" in done.stdout
    assert run.cancel_file.exists()
    found = state_of(run)
    assert found["state"] == "stopped" and found["reason"].startswith("cancelled")
    assert found["next"] == f"python -m ecm_cluster.resume {run.path}"
    assert "nothing to cancel" in verb("cancel", run.path).stdout
    done = verb("resume", run.path)
    assert f"from {found['checkpoint']}" in done.stdout
    assert not run.cancel_file.exists()
    assert await_state(run, "done")["attempt"] == 2
    assert run.read_attempt(2)["from"] == found["checkpoint"]
    assert "nothing to do: trained and scored" in verb("resume", run.path).stdout
    assert run.attempts() == [1, 2]


@pytest.mark.slow
def test_a_driver_that_finds_the_mark_starts_nothing(small_data, tmp_path):
    flags = job_flags(small_data, tmp_path, "run", runner__max_epochs=3)
    env = {files.KILL_ENV: "after-driver"}
    assert verb("submit", *flags, "--cluster", "local", env=env, code=None).returncode == -signal.SIGKILL
    run = Run(tmp_path / "run")
    # the driver imports for a moment: the mark is there before it begins
    files.write_json(run.cancel_file, {"time": 1.0})
    wait_until(lambda: "cancelled" in run.local_log.read_text(), "the driver ends", 60, lambda: logs_of(run))
    wait_until(lambda: not _processes_of(run), "its process is gone", 60, lambda: str(_processes_of(run)))
    assert run.attempts() == []


def _processes_of(run: Run) -> list[str]:
    return [pid for pid in os.listdir("/proc") if pid.isdigit() and str(run.path) in _command(pid)]


def _command(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/cmdline") as handle:
            return handle.read()
    except OSError:
        return ""
