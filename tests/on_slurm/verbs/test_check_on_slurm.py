"""``submit --check=job`` on a real Slurm: a short job on the run's partition, before anything of the run is there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from small import ROOT, job_flags, verb, wait_until

FAILING = {"model__neck__in_channels": "[16,32,64,99]"}  # which no check of the plan sees


def jobs_of(slurm) -> str:
    return slurm.run("squeue", "-h", "-o", "%i %j %P %T").stdout


def test_a_check_runs_as_a_short_job_on_the_partition_and_the_run_is_submitted_after_it(slurm, small_data, tmp_path):
    flags = [*job_flags(small_data, tmp_path / "runs", "checked"), "--partition", "high", "--check=job"]
    done = verb("submit", *flags, env=slurm.env)
    assert "checking the job in job " in done.stderr
    assert done.stdout.index("check       passed in") < done.stdout.index("submitted: train ")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["checked"]
    verb("cancel", tmp_path / "runs/checked", env=slurm.env)


def test_a_check_that_fails_in_its_job_refuses_the_run(slurm, small_data, tmp_path):
    flags = [*job_flags(small_data, tmp_path / "runs", "wrong", **FAILING), "--check=job"]
    done = verb("submit", *flags, env=slurm.env, code=2)
    assert "checking the job in job " in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: config: model: RuntimeError: ")
    assert not (tmp_path / "runs").exists()


def interruptible() -> None:
    """What a shell starts in the background ignores SIGINT, and hands that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_cancels_the_job_of_a_check(slurm, small_data, tmp_path):
    slurm.run("scontrol", "update", "PartitionName=high", "State=DOWN")  # it stays in the queue
    try:
        flags = [*job_flags(small_data, tmp_path / "runs", "waiting"), "--partition", "high", "--check=job"]
        process = subprocess.Popen([sys.executable, "-m", "ecm_cluster.submit", *flags], cwd=ROOT, text=True,
                                   env={**os.environ, **slurm.env, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE,
                                   stdout=subprocess.DEVNULL, preexec_fn=interruptible)
        wait_until(lambda: "ecm-cluster-check" in jobs_of(slurm), "the job is queued", 60, lambda: jobs_of(slurm))
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        wait_until(lambda: "ecm-cluster-check" not in jobs_of(slurm), "the job is cancelled", 30)
        assert not Path(tmp_path / "runs").exists()
    finally:
        slurm.run("scontrol", "update", "PartitionName=high", "State=UP")
