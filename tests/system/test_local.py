"""The same command on one machine without Slurm: real processes, real signals, a real detector."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from comparing import read
from small import await_state, hook, job_flags, logs_of, verb, wait_until, with_code

from ecm_cluster.rundir.run import Run

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

    mark = run.completion()
    assert mark is not None
    return read(run.checkpoints_dir / mark)


def test_a_signalled_run_continues_in_mid_epoch_and_ends_bit_identical_to_an_uninterrupted_one(small_data, tmp_path):
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


def test_a_killed_worker_ends_the_others_and_the_run_continues_within_its_budget(small_data, tmp_path):
    # from within: a signal from outside may come after the end of an epoch, whose checkpoint fills the budget again
    killed = hook("if runner.rank == 1 and runner.iter == 1: os.kill(os.getpid(), signal.SIGKILL)")
    run = start(small_data, tmp_path, "killed", "--gpus", 2, *with_code(tmp_path, killed))
    found = await_state(run, "failed")
    assert "rank 1" in found["reason"] and "SIGKILL" in found["reason"] and "killed 3 times" in found["reason"]
    assert run.newest_attempt() == 3
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


def test_a_hanging_rank_is_found_its_stacks_are_kept_and_the_run_continues(small_data, tmp_path):
    once = str(tmp_path / "once")
    hanging = hook(f"if runner.rank == 1 and runner.iter == 3 and not os.path.exists({once!r}): "
                   f"os.mkdir({once!r}); time.sleep(3600)")
    run = start(small_data, tmp_path, "hanging", "--gpus", 2, "--no-eval", *with_code(tmp_path, hanging),
                "--hang-minutes", 3)
    await_state(run, "done")
    ends = [e for e in run.events() if e.kind == "end" and e.attempt == 1]
    # the other may see its connection closed before it is ended itself
    assert {e["cause"] for e in ends if not e.get("follows")} == {"hung"}
    assert "training" in ends[0]["detail"]
    assert '/own.py"' in run.stacks_file(1, 1).read_text()
    assert "step_hook.py" in run.stacks_file(1, 0).read_text(), "the rank that waits says where, too"
    wait_until(lambda: not run.stacks_file(2, 0).exists(), "what was not needed is removed", 60)


def test_a_task_that_is_killed_with_its_supervisor_ends_the_others_and_the_run_continues(small_data, tmp_path):
    run = start(small_data, tmp_path, "task-killed", "--gpus", 2, "--no-eval", runner__max_epochs=4)
    training(run, 1, 2)
    os.kill(task_pid(run, 1, rank=1), signal.SIGKILL)
    await_state(run, "done")
    ended = next(e for e in run.events() if e.kind == "end" and e.attempt == 1)
    assert (ended["cause"], ended["rank"]) in {("killed", 1), ("crashed", 0)}
    assert run.newest_attempt() == 2
