"""Each way in which a job can end, on a real Slurm through the real command line: what follows, what is recorded."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from slurm_harness import SlurmCluster
from slurm_harness.endings import SHORT, ends, preempt, trained, worker_of
from small import ROOT, await_state, job_flags, logs_of, state_of, verb, wait_until

from ecm_cluster.rundir.run import Run


@pytest.fixture
def begin(slurm: SlurmCluster, small_data: Path, tmp_path: Path) -> Iterator[Any]:
    """``begin(name, *flags, **options)`` submits a run and waits until its first attempt has taken two steps."""
    def start(name: str, *flags: object, steps: int = 2, **options: object) -> tuple[Run, str]:
        verb("submit", *job_flags(small_data, tmp_path, name, **{**SHORT, **options}), *flags, env=slurm.env)
        run = Run(tmp_path / name)
        trained(run, 1, steps)
        return run, run.submissions()[0].job_id or ""

    yield start


def test_a_cancelled_job_stays_cancelled_and_its_evaluation_too(slurm, begin):
    run, job_id = begin("cancelled")
    evaluation = run.submissions()[1].job_id
    slurm.run("scancel", job_id)
    assert slurm.wait_for(job_id)["JobState"] == "CANCELLED"
    assert slurm.wait_for(evaluation)["JobState"] == "CANCELLED"
    assert state_of(run, slurm.env)["state"] == "stopped"
    assert ends(run, 1)[0] == "cancelled"
    assert slurm.job(job_id)["Restarts"] == "0"


def test_a_rank_that_is_killed_ends_the_others_and_the_run_continues(slurm, begin):
    run, job_id = begin("killed", "--gpus", 2, "--no-eval")
    os.kill(worker_of(run, 1, 1), signal.SIGKILL)
    await_state(run, "done", env=slurm.env)
    assert ends(run, 1)[0] == "killed"
    assert [e["accepted"] for e in run.events() if e.kind == "requeue"] == [True]
    assert slurm.job(job_id)["Restarts"] == "1"


def test_a_task_that_is_killed_with_its_supervisor_is_recorded_by_the_batch_shell(slurm, begin):
    run, job_id = begin("task-killed", "--gpus", 2, "--no-eval")
    task = next(e["pid"] for e in run.events() if e.kind == "start" and e["rank"] == 0)
    os.kill(task, signal.SIGKILL)
    await_state(run, "done", env=slurm.env)
    ended = [e for e in run.events() if e.kind == "end" and e.attempt == 1]
    assert ended, "nobody has recorded the end"
    assert slurm.job(job_id)["Restarts"] == "1"


def test_a_signal_from_a_user_is_committed_and_the_job_continues(slurm, begin):
    run, job_id = begin("signalled", "--no-eval")
    slurm.run("scancel", "--signal=USR2", job_id)
    await_state(run, "done", env=slurm.env)
    assert ends(run, 1) == ["signalled"]
    assert run.read_attempt(2)["from"] is not None
    assert slurm.job(job_id)["Restarts"] == "0"


def test_without_any_grace_slurm_brings_the_run_back(slurm, begin):
    run, job_id = begin("no-grace", "--partition", "lown", "--no-eval", "--checkpoint-every", 1)
    preempt(slurm, job_id)
    await_state(run, "done", env=slurm.env)
    assert ends(run, 1)[0] in ("requeued", "preempted")
    assert run.read_attempt(2)["from"] is not None


def test_where_preempted_jobs_are_cancelled_the_run_requeues_itself_within_the_grace(slurm, begin):
    run, job_id = begin("cancel-mode", "--partition", "lowc", "--no-eval")
    preempt(slurm, job_id)
    await_state(run, "done", env=slurm.env)
    assert ends(run, 1)[0] == "preempted"
    assert slurm.job(job_id)["Restarts"] == "1"


def test_scontrol_requeue_is_not_answered_by_another_requeue(slurm, begin):
    run, job_id = begin("requeued", "--no-eval", "--checkpoint-every", 1)
    slurm.run("scontrol", "requeue", job_id)
    await_state(run, "done", env=slurm.env)
    assert ends(run, 1)[0] == "requeued"
    assert slurm.job(job_id)["Restarts"] == "1"


def test_a_node_that_fails_is_left_and_its_old_ranks_commit_nothing(slurm, begin):
    run, job_id = begin("node-failure", "--no-eval", "--checkpoint-every", 1)
    slurm.node_down(slurm.job(job_id)["NodeList"])
    await_state(run, "done", env=slurm.env)
    assert ends(run, 1)[0] in ("requeued", "node failure")
    assert slurm.job(job_id)["Restarts"] == "1"


def test_a_controller_that_restarts_in_between_is_waited_for(slurm, begin):
    run, job_id = begin("controller", "--no-eval")
    slurm.stop_controller()
    task = next(e["pid"] for e in run.events() if e.kind == "start" and e["rank"] == 0)
    os.kill(task, signal.SIGTERM)
    wait_until(lambda: any(e.kind == "commit" for e in run.events()), "the commit", look=lambda: logs_of(run))
    assert ends(run, 1) == []
    slurm.start_controller()
    await_state(run, "done", env=slurm.env)
    assert ends(run, 1) == ["signalled"]


def test_the_same_error_twice_at_the_same_iteration_stops_the_run(slurm, small_data, tmp_path):
    code = tmp_path / "code"
    code.mkdir()
    (code / "breaking.py").write_text(
        "from mmcv.runner import HOOKS, Hook\n\n\n@HOOKS.register_module()\nclass Breaking(Hook):\n"
        "    def after_train_iter(self, runner):\n        if runner.iter == 3:\n"
        "            raise ArithmeticError('the loss is not a number')\n")
    config = tmp_path / "failing.py"
    config.write_text(
        f"_base_ = ['{ROOT}/configs/demo.py']\ncustom_hooks = [dict(type='Breaking')]\n"
        "custom_imports = dict(imports=['mmdet_ext.register', 'breaking'], allow_failed_imports=False)\n")
    flags = job_flags(small_data, tmp_path, "twice")
    verb("submit", *flags, "--code", code, "--config", config, env=slurm.env)
    run = Run(tmp_path / "twice")
    found = await_state(run, "failed", env=slurm.env)
    assert "ArithmeticError: the loss is not a number; the same error twice at iteration 3" in found["reason"]
    assert run.newest_attempt() == 2
    assert slurm.wait_for(run.submissions()[0].job_id)["JobState"] == "FAILED"
    assert slurm.wait_for(run.submissions()[1].job_id)["JobState"] == "CANCELLED"
