"""A job of the earlier version waits in the queue while the checkout that submitted it is replaced by this version."""

from __future__ import annotations

import shutil
from pathlib import Path

from former_version import checkout
from small import ROOT, await_state, job_flags, logs_of, verb, wait_until

from ecm_cluster.chain import evaluations
from ecm_cluster.rundir.run import Run


def replace(checkout: Path) -> None:
    """Replace the earlier version by this one."""
    for package in ("ecm_cluster", "mmdet_ext", "configs", "jobs"):
        shutil.rmtree(checkout / package)
        shutil.copytree(ROOT / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__"))


def test_pending_jobs_run_to_their_end_and_every_verb_of_this_version_works_on_them(slurm, small_data, tmp_path):
    source, env = checkout(tmp_path), slurm.env
    partitions = set(slurm.run("sinfo", "-h", "-o", "%R").stdout.split())
    for partition in partitions:
        slurm.run("scontrol", "update", f"PartitionName={partition}", "State=DOWN")
    try:
        for name, epochs in (("left-alone", 1), ("steered", 40)):
            verb("submit", *job_flags(small_data, tmp_path, name, runner__max_epochs=epochs), env=env, source=source)
        left_alone, run = Run(tmp_path / "left-alone"), Run(tmp_path / "steered")
        assert not (run.code_dir / "ecm_cluster/base").exists(), "submitted by the earlier version"
        replace(source)
        assert await_state(run, "waiting", env=env)["attempt"] == 0
    finally:
        for partition in partitions:
            slurm.run("scontrol", "update", f"PartitionName={partition}", "State=UP")
    wait_until(lambda: (run.heartbeat(1) or {}).get("iteration", 0) >= 3, "training", look=lambda: logs_of(run))
    verb("cancel", run.path, env=env, source=source)
    stopped = await_state(run, "stopped", env=env)
    assert stopped["checkpoint"] is not None

    assert "segm_AP" in await_state(left_alone, "done", env=env)["evaluation"]
    assert left_alone.newest_attempt() == 1

    # a pickle that this version writes is read by the earlier version's code
    verb("resume", run.path, env=env, source=source)
    assert await_state(run, "done", env=env)["attempt"] == 2
    assert run.read_attempt(2)["from"] == stopped["checkpoint"]
    verb("evaluate", run.path, "--vary", "nms_iou=0.4", env=env, source=source)
    wait_until(lambda: evaluations.chain_done(run, "sweep001"), "the sweep is scored", look=lambda: logs_of(run))
    assert len(run.evaluations()) == 2
