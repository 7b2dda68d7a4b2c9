"""A run of any number of attempts is one clean line in each tracker, regardless of what is killed, and when."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from small import ROOT, await_state, job_flags, logs_of, verb, wait_until
from tracked import assert_clean, events, in_tensorboard, in_wandb, logged, offline_files

from ecm_cluster.rundir import training_log
from ecm_cluster.rundir.run import Run

pytestmark = pytest.mark.slow


def start(data: Path, runs: Path, name: str, *flags: object, env: Any = None, **options: object) -> Run:
    verb("submit", *job_flags(data, runs, name, **options), "--cluster", "local", *flags, env=env)
    return Run(runs / name)


def training(run: Run, attempt: int, iterations: int) -> None:
    wait_until(lambda: (run.heartbeat(attempt) or {}).get("iteration", 0) >= iterations, f"attempt {attempt} training",
               look=lambda: logs_of(run))


def task(run: Run, attempt: int) -> int:
    return next(e["pid"] for e in run.events() if e.kind == "start" and e.attempt == attempt)


def processes_of(run: Run, module: str) -> list[int]:
    """IDs of the processes that a run has of a module."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if str(run.path) in words and any(module in word for word in words):
            found.append(int(path.parent.name))
    return found


def at_rest(run: Run, *states: str) -> dict[str, Any]:
    """Wait until a run is in one of these states, and none of its processes is left."""
    found = await_state(run, *states)
    wait_until(lambda: not processes_of(run, "ecm_cluster"), "all processes end", 60)
    return found


def kill_rank(run: Run, attempt: int) -> None:
    for pid in processes_of(run, "training.worker"):
        os.kill(pid, signal.SIGKILL)


def signal_rank(run: Run, attempt: int) -> None:
    os.kill(task(run, attempt), signal.SIGTERM)


def kill_feeds_and_rank(run: Run, attempt: int) -> None:
    for pid in processes_of(run, "trackers.follow"):
        os.kill(pid, signal.SIGKILL)
    kill_rank(run, attempt)


def kill_job(run: Run, attempt: int) -> None:
    """As a node that fails: everything at once."""
    for pid in {int(run.submissions()[0].job_id or 0), task(run, attempt), *processes_of(run, "ecm_cluster")}:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not processes_of(run, "ecm_cluster"), "all processes end", 30)
    verb("resume", run.path)


def test_killed_signalled_and_taken_back_it_is_one_clean_line_in_both_trackers(small_data, tmp_path):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    run = start(small_data, tmp_path, "chaos", "--trackers", "tensorboard,wandb", "--checkpoint-every", 5, "--keep", 50,
                runner__max_epochs=14)
    actions = [kill_rank, signal_rank, kill_feeds_and_rank, kill_job]
    moments.shuffle(actions)
    reached = 0
    for attempt, action in enumerate(actions, 1):
        training(run, attempt, reached + moments.randint(2, 14))
        reached = run.heartbeat(attempt)["iteration"]  # type: ignore[index]
        action(run, attempt)
    found = at_rest(run, "done")
    assert found["attempt"] == 5 and len({line["attempt"] for line in training_log.fold(run)}) > 2
    assert_clean(run)
    last = max(step for step, _ in in_wandb(offline_files(run)[0])["val/bbox_AP"])
    assert last == found["iteration"] == 98
    # an earlier checkpoint is scored later, from a process of its own
    verb("evaluate", run.path, "--checkpoints", "20", "--wait")
    at_rest(run, "done")
    assert_clean(run)
    assert [step for step, _ in in_wandb(offline_files(run)[0])["val/bbox_AP"]] == [20, 98]
    assert {e.session_log.status for e in events(run.tracker_dir("tensorboard"))[:2]} == {0, 1}, "START is at the head"


def test_iterations_that_are_trained_again_from_an_earlier_checkpoint_replace_those_of_before(small_data, tmp_path):
    run = start(small_data, tmp_path, "back", "--trackers", "tensorboard,wandb", "--checkpoint-every", 5, "--keep", 50,
                "--no-eval", runner__max_epochs=40)
    training(run, 1, 30)
    os.kill(int(run.submissions()[0].job_id or 0), signal.SIGTERM)
    at_rest(run, "stopped")
    before = logged(run)["train/loss"][-1][0]
    assert before >= 30
    assert_clean(run)  # at rest between two attempts, too
    verb("resume", run.path, "--from", 10)
    training(run, 2, 12)
    os.kill(int(run.submissions()[0].job_id or 0), signal.SIGTERM)
    at_rest(run, "stopped")
    assert logged(run)["train/loss"][-1][0] < before
    assert_clean(run)


HOOK = "dict(type='WandbLoggerHook', interval=1, priority='VERY_LOW', " \
       "init_kwargs=dict(project='ecm-cluster', mode='offline', resume='allow'))"


def test_a_config_with_mmcvs_hooks_completes_in_two_attempts_with_one_record(small_data, tmp_path):
    config = tmp_path / "hooked.py"
    config.write_text(f"_base_ = ['{ROOT}/configs/demo.py']\ncustom_hooks = [{HOOK}]\n"
                      "log_config = dict(interval=1, hooks=[dict(type='TensorboardLoggerHook')])\n")
    run = start(small_data, tmp_path, "hooked", "--config", config, "--no-eval", runner__max_epochs=6)
    training(run, 1, 3)
    kill_rank(run, 1)
    assert at_rest(run, "done")["attempt"] == 2
    assert_clean(run)
    assert not list(run.logs_dir.glob("tf_logs")) and not list(run.logs_dir.glob("wandb"))
    assert len(in_tensorboard(run.tracker_dir("tensorboard"))["train/loss"]) == 42
