"""What is done once a run has ended neither fails nor holds up anything."""

from __future__ import annotations

import signal
import time

import pytest

from ecm_cluster.base import processes
from ecm_cluster.node import signals
from ecm_cluster.node.supervise import afterwards
from ecm_cluster.rundir.run import Run

BODIES = {
    "says": "import sys; print('made a page of', sys.argv[1])",
    "fails": "raise SystemExit(3)",
    "hangs": "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); print('started', flush=True); "
             "time.sleep(60)",
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    modules = tmp_path / "modules"
    modules.mkdir()
    for name, body in BODIES.items():
        (modules / f"afterwards_{name}.py").write_text(body)
        monkeypatch.setitem(processes.MODULES, name, f"afterwards_{name}")
    monkeypatch.setenv("PYTHONPATH", str(modules))
    made = Run(tmp_path / "run")
    made.logs_dir.mkdir(parents=True)
    return made


def test_each_process_gets_the_run_and_one_that_fails_does_not_keep_the_next_from_starting(run, monkeypatch):
    monkeypatch.setattr(afterwards, "PROCESSES", ("fails", "says"))
    afterwards.carry_out(run)
    said = run.afterwards_log.read_text()
    assert "fails: ended with code 3" in said
    assert f"made a page of {run.path}" in said


@pytest.mark.slow
def test_a_process_that_hangs_is_killed_with_what_it_has_started(run, monkeypatch):
    monkeypatch.setattr(afterwards, "PROCESSES", ("hangs", "says"))
    monkeypatch.setattr(afterwards, "SECONDS", 2.0)
    began = time.monotonic()
    afterwards.carry_out(run)
    assert time.monotonic() - began < 20
    said = run.afterwards_log.read_text()
    assert "started" in said and "hangs: killed" in said and "made a page" in said


@pytest.mark.slow
def test_a_signal_ends_it_at_once(run, monkeypatch):
    monkeypatch.setattr(afterwards, "PROCESSES", ("hangs",))
    signals.ask_to_stop(signal.SIGTERM)
    try:
        began = time.monotonic()
        afterwards.carry_out(run)
        assert time.monotonic() - began < 20
    finally:
        signals.clear()


def test_without_a_log_directory_nothing_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(afterwards, "PROCESSES", ("says",))
    afterwards.carry_out(Run(tmp_path / "nowhere"))
