"""The same command on one machine without Slurm: real processes, real signals, a real detector."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from small import await_state, job_flags, logs_of, verb, wait_until

from ecm_cluster.run import Run

pytestmark = pytest.mark.slow


def start(data: Path, runs: Path, name: str, *flags: object, **options: object) -> Run:
    verb("submit", *job_flags(data, runs, name, **options), "--cluster", "local", *flags)
    return Run(runs / name)


def task_pid(run: Run, attempt: int, rank: int = 0) -> int:
    return next(e["pid"] for e in run.events() if e.kind == "start" and e.attempt == attempt and e["rank"] == rank)


def training(run: Run, attempt: int, iterations: int) -> None:
    wait_until(lambda: (run.heartbeat(attempt) or {}).get("iteration", 0) >= iterations, "training",
               look=lambda: logs_of(run))


def weights(run: Run) -> dict:
    import torch

    mark = run.completion()
    assert mark is not None
    return torch.load(run.checkpoints_dir / mark["checkpoint"], weights_only=True)


def test_a_signalled_run_goes_on_in_mid_epoch_and_ends_bit_identical_to_an_uninterrupted_one(small_data, tmp_path):
    import torch

    flags = ("--gpus", 2, "--no-eval")
    straight = start(small_data, tmp_path, "straight", *flags, runner__max_epochs=5)
    await_state(straight, "done")
    broken = start(small_data, tmp_path, "broken", *flags, runner__max_epochs=5)
    training(broken, 1, 2)
    os.kill(task_pid(broken, 1, rank=1), signal.SIGTERM)
    assert await_state(broken, "done")["attempt"] == 2
    first, second = weights(straight), weights(broken)
    assert first["state_dict"].keys() == second["state_dict"].keys()
    for key, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][key]), key
    for index, slots in first["optimizer"]["state"].items():
        for slot, value in slots.items():
            assert torch.equal(value, second["optimizer"]["state"][index][slot])


def test_a_killed_worker_fails_the_run_and_status_says_so(small_data, tmp_path):
    run = start(small_data, tmp_path, "killed", "--gpus", 2, runner__max_epochs=50)
    training(run, 1, 1)
    with open(f"/proc/{task_pid(run, 1, rank=1)}/task/{task_pid(run, 1, rank=1)}/children") as handle:
        worker = int(handle.read().split()[0])
    os.kill(worker, signal.SIGKILL)
    found = await_state(run, "failed")
    assert "rank 1" in found["reason"] and "SIGKILL" in found["reason"]
    assert run.completion() is None and run.evaluations() == []


def test_cancelling_the_driver_commits_and_leaves_no_process_behind(small_data, tmp_path):
    run = start(small_data, tmp_path, "cancelled", runner__max_epochs=50)
    training(run, 1, 2)
    driver, task = int(run.submissions()[0].job_id or 0), task_pid(run, 1)
    os.kill(driver, signal.SIGTERM)
    found = await_state(run, "stopped")
    assert found["reason"].startswith("cancelled")
    assert found["checkpoint"] is not None
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in (driver, task)), "all processes end", 30)


def test_the_ranks_stop_and_commit_when_the_driver_is_killed(small_data, tmp_path):
    run = start(small_data, tmp_path, "orphaned", runner__max_epochs=50)
    training(run, 1, 2)
    task = task_pid(run, 1)
    os.kill(int(run.submissions()[0].job_id or 0), signal.SIGKILL)
    wait_until(lambda: not os.path.exists(f"/proc/{task}"), "the task ends", 60)
    assert any(e.kind == "commit" for e in run.events())


def test_two_nodes_side_by_side_on_one_machine(small_data, tmp_path):
    run = start(small_data, tmp_path, "virtual", "--nodes", 2, "--no-eval")
    await_state(run, "done")
    assert run.read_attempt(1)["world_size"] == 2
