"""The main command on one machine with two GPUs, from submit to scores; the GPUs are emulated, see there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import emulated_gpu
import pytest
from small import ROOT, await_state, job_flags, logs_of, wait_until

from ecm_cluster.chain import evaluations
from ecm_cluster.rundir.run import Run

MISSING = emulated_gpu.missing()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(MISSING is not None, reason=f"no emulated GPUs: {MISSING}")]


def test_a_run_on_two_gpus_is_preempted_continues_in_mid_epoch_and_is_scored(small_data, tmp_path):
    env = {**os.environ, **emulated_gpu.everywhere(tmp_path, 2)}
    env["PYTHONPATH"] += f"{os.pathsep}{ROOT}"
    flags = job_flags(small_data, tmp_path, "run", runner__max_epochs=2)
    subprocess.run([sys.executable, "-m", "ecm_cluster.submit", *flags, "--cluster", "local", "--gpus", "2",
                    "--device", "cuda"], env=env, check=True, cwd=ROOT)
    run = Run(tmp_path / "run")
    wait_until(lambda: (run.heartbeat(1) or {}).get("iteration", 0) >= 1, "training", look=lambda: logs_of(run))
    task = next(e["pid"] for e in run.events() if e.kind == "start" and e.attempt == 1 and e["rank"] == 1)
    os.kill(task, signal.SIGTERM)
    found = await_state(run, "done")
    assert found["attempt"] == 2, "the ranks agreed on a step, and resumed from it"
    assert all(evaluations.done(run, element) for element in evaluations.read(run, "evaluate")), logs_of(run)
    assert "memory: " in run.train_log.read_text(), "the log measures the GPUs' memory"
