"""Between two optimizer steps: when a commit is waited for, and what follows when it fails."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comparing import read

from ecm_cluster.attempts import endings
from ecm_cluster.base import files
from ecm_cluster.chain import evaluations
from ecm_cluster.node import heartbeat, signals
from ecm_cluster.node.world import RankInfo
from ecm_cluster.rundir import checkpoints
from ecm_cluster.rundir.run import Run

ALONE = RankInfo(0, 1, 0, 0, 1, "x", 0, "local")
TOO_LARGE = os.strerror(errno.EFBIG)


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(600, 600)  # 1.4 MB

    def train_step(self, data, optimizer):
        raise AssertionError("the hook is called by hand")


class Training:
    """A real runner whose counters are moved by hand, and a real step hook."""

    def __init__(self, run: Run, attempt: int = 1, every: int = 0, last: int = 100, also: tuple[int, ...] = ()) -> None:
        from ecm_cluster.node.mmdet_trainer.trainer import MmdetTrainer
        from ecm_cluster.node.training.step_hook import StepHook
        from mmdet_ext.runners.runner import PositionedIterBasedRunner

        run.attempts_dir.mkdir(parents=True, exist_ok=True)
        accepts = [m.file for m in checkpoints.accepted(run)]
        files.create_exclusive(run.attempt_file(attempt), json.dumps({"number": attempt, "accepts": accepts}))
        model = Model()
        self.run = run
        self.runner = PositionedIterBasedRunner(
            model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), logger=logging.getLogger("step hook"),
            meta={}, max_iters=last)
        self.runner.prepare(0, None)
        loader: Any = SimpleNamespace(batch_sampler=None)
        self.hook = StepHook(run, attempt, MmdetTrainer(self.runner, loader, None, attempt, None), ALONE, None,
                             self.runner.logger, every=every, minutes=0, keep=2, also=also)
        self.saver = self.hook.saver

    def step(self, epoch_end: bool = False) -> None:
        self.runner._iter += 1
        self.runner.position += 1
        self.runner.model.layer.weight.data += 1
        self.hook(epoch_end)

    def fill_the_disk(self) -> None:
        """No file of the writer may grow beyond 1 MB from now on."""
        hard = resource.prlimit(self.saver.writer.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(self.saver.writer.pid, resource.RLIMIT_FSIZE, (1 << 20, hard))

    def kinds(self, *wanted: str) -> list[tuple[str, int]]:
        return [(e.kind, e["iteration"]) for e in self.run.events() if e.kind in wanted]


@pytest.fixture
def training(tmp_path: Path):
    made: list[Training] = []

    def make(**options: Any) -> Training:
        made.append(Training(Run(tmp_path / "run"), **options))
        return made[-1]

    signals.clear()
    yield make
    signals.clear()
    for each in made:
        os.kill(each.saver.writer.pid, signal.SIGCONT)
        each.saver.writer.close()


def test_training_continues_while_a_checkpoint_is_written_and_the_event_follows(training):
    t = training(every=1)
    os.kill(t.saver.writer.pid, signal.SIGSTOP)
    t.step()
    assert t.saver.writer.busy and t.kinds("commit") == []
    os.kill(t.saver.writer.pid, signal.SIGCONT)
    t.step()
    assert t.kinds("commit") == [("commit", 1)]
    t.saver.settle(wait=True)
    weights = [read(m.path(t.run))["state_dict"]["layer.weight"][0, 0].item()
               for m in checkpoints.accepted(t.run)]
    assert weights[1] - weights[0] == pytest.approx(1)


def test_where_a_step_takes_several_iterations_the_first_one_at_or_after_the_interval_is_committed(training):
    from mmcv.runner import GradientCumulativeOptimizerHook

    t = training(every=5)
    t.runner.register_hook(GradientCumulativeOptimizerHook(cumulative_iters=4))
    for _ in range(5):
        t.runner._iter += 3  # the iterations after which the hook is not called
        t.step()
    t.saver.settle(wait=True)
    assert t.kinds("commit") == [("commit", 8), ("commit", 12), ("commit", 16), ("commit", 20)]


def test_iterations_that_an_evaluation_asks_for_are_committed(training):
    t = training(also=(2, 5))
    for _ in range(6):
        t.step()
    t.saver.settle(wait=True)
    assert t.kinds("commit") == [("commit", 2), ("commit", 5)]


def test_an_iteration_inside_a_step_of_several_means_the_checkpoint_behind_that_step(training):
    from mmcv.runner import GradientCumulativeOptimizerHook

    t = training(also=(5, 10, 11), last=14)
    t.runner.register_hook(GradientCumulativeOptimizerHook(cumulative_iters=4))
    for _ in range(3):
        t.runner._iter += 3  # the iterations after which the hook is not called
        t.step()
    t.saver.settle(wait=True)
    assert t.kinds("commit") == [("commit", 8), ("commit", 12)]
    meant = {n: evaluations.resolve(t.run, f"iteration {n}") for n in (4, 5, 8, 9, 10, 11, 13)}
    assert {n: m and m.iteration for n, m in meant.items()} == {4: None, 5: 8, 8: 8, 9: 12, 10: 12, 11: 12, 13: None}


def test_the_end_of_an_epoch_and_an_agreed_stop_wait_for_the_writer(training):
    from ecm_cluster.node.training.step_hook import AgreedStop

    t = training()
    t.step(epoch_end=True)
    assert t.kinds("commit") == [("commit", 1)]
    signals.ask_to_stop(signal.SIGTERM)
    with pytest.raises(AgreedStop, match="committed"):
        t.step()
    assert t.kinds("commit") == [("commit", 1), ("commit", 2)]


def test_completion_waits_and_marks_the_checkpoint_of_the_last_iteration(training):
    t = training(last=2)
    t.step()
    t.step(epoch_end=True)
    t.hook.complete()
    assert t.run.completion() == checkpoints.accepted(t.run)[-1].file
    assert checkpoints.last(t.run).iteration == 2
    assert set(files.read_json(t.run.complete_file(1))) == {"attempt", "time", "checkpoint"}, "nothing is copied"
    assert t.kinds("commit", "commit-failed") == [("commit", 2)]


def test_training_continues_when_a_checkpoint_does_not_fit_on_the_disk(training, caplog):
    t = training(every=1)
    t.step()
    t.saver.settle(wait=True)
    t.fill_the_disk()
    t.step()
    t.step()
    t.saver.settle(wait=True)
    assert t.kinds("commit", "commit-failed") == [("commit", 1), ("commit-failed", 2), ("commit-failed", 3)]
    assert [m.iteration for m in checkpoints.accepted(t.run)] == [1]
    assert f"iteration 2 could not be written: {TOO_LARGE}; iteration 1 stands" in caplog.text
    assert not list(t.run.checkpoints_dir.glob(f"*{files.TMP_MARK}*"))


def test_commits_that_keep_failing_are_reported_by_status_and_in_the_log(training, caplog, monkeypatch):
    t = training(every=1)
    t.step(epoch_end=True)
    assert t.saver.trouble() is None
    t.fill_the_disk()
    t.step(epoch_end=True)
    began = t.saver._failing[0]
    monkeypatch.setattr(t.saver, "_failing", (began - 3 * 3600, TOO_LARGE))
    monkeypatch.setattr(checkpoints, "accepted", lambda run: pytest.fail("asks the storage that fails"))
    t.step(epoch_end=True)
    t.hook._beat("training")
    said = f"commits have failed for 3 h ({TOO_LARGE}); the checkpoint of iteration 1 stands"
    assert endings.failing_text(heartbeat.last()["commits_fail"]) == said
    assert said in caplog.text


def test_when_the_commit_at_a_stop_fails_the_last_one_stands_and_the_end_says_so(training):
    from ecm_cluster.node.training.step_hook import AgreedStop

    t = training()
    t.step(epoch_end=True)
    t.fill_the_disk()
    signals.ask_to_stop(signal.SIGTERM)
    with pytest.raises(AgreedStop, match="could not be written .* iteration 1 stands"):
        t.step()
    said = endings.failed_commit(t.run.events(), 1)
    assert said == f"the checkpoint of iteration 2 could not be written ({TOO_LARGE}); iteration 1 stands"
    assert checkpoints.newest_sound(t.run)[0].iteration == 1


def test_an_attempt_whose_newest_commit_succeeded_has_lost_none(training):
    t = training()
    assert endings.failed_commit(t.run.events(), 1) is None
    t.step(epoch_end=True)
    assert endings.failed_commit(t.run.events(), 1) is None


def test_the_last_checkpoint_is_tried_twice_and_without_it_nothing_is_complete(training, monkeypatch):
    t = training(last=1)
    t.fill_the_disk()
    t.step(epoch_end=True)
    with pytest.raises(RuntimeError, match=f"the last checkpoint could not be written: {TOO_LARGE}"):
        t.hook.complete()
    assert t.run.completion() is None
    assert t.kinds("commit-failed") == [("commit-failed", 1)] * 2


def test_a_writer_that_died_at_the_last_checkpoint_is_replaced_and_the_run_completes(training):
    t = training(last=1)
    os.kill(t.saver.writer.pid, signal.SIGKILL)
    t.step(epoch_end=True)
    t.hook.complete()
    assert checkpoints.last(t.run).iteration == 1


def test_a_stale_attempt_ends(training):
    t = training()
    t.step(epoch_end=True)
    files.create_exclusive(t.run.attempt_file(2), json.dumps({"number": 2, "accepts": []}))
    with pytest.raises(checkpoints.StaleAttempt):
        t.step(epoch_end=True)


def test_the_heartbeat_tells_what_a_step_and_a_commit_cost(training):
    t = training()
    for _ in range(2):
        t.step(epoch_end=True)
    t.step()
    t.hook._beat("training")
    beat = heartbeat.last()
    assert beat["slowest_step"] > 0 and beat["write_seconds"] > 0 and beat["blocked_seconds"] > 0
    assert [e["slowest_step"] for e in t.run.events() if e.kind == "commit"][0] == 0


def test_a_step_during_which_the_process_was_suspended_is_not_taken_for_a_slow_one(training):
    signals.watch()
    t = training(last=9)
    t.step()
    # another process has to do it: a stopped one cannot wake itself
    subprocess.run(["sh", "-c", f"kill -STOP {os.getpid()}; sleep 1.5; kill -CONT {os.getpid()}"], check=True)
    t.step()
    t.step(epoch_end=True)
    slowest = [e["slowest_step"] for e in t.run.events() if e.kind == "commit"]
    assert slowest[0] < 1


def test_each_commit_tells_the_slowest_step_since_the_one_before(training):
    t = training(last=9)
    t.step()
    time.sleep(0.3)
    for _ in range(3):
        t.step(epoch_end=True)
    slowest = [e["slowest_step"] for e in t.run.events() if e.kind == "commit"]
    assert slowest[0] >= 0.3 > max(slowest[1:])


def test_an_attempt_that_finds_nothing_left_to_train_completes_with_the_checkpoint_it_began_with(training):
    t = training(last=2)
    t.step()
    t.step(epoch_end=True)
    (last,) = checkpoints.accepted(t.run)
    t.run.attempt_file(2).write_text(json.dumps({"number": 2, "from": last.file, "accepts": [last.file]}))
    again = training(attempt=2, last=2)
    again.runner._iter = again.hook.started_at = 2
    again.hook.complete()
    assert checkpoints.accepted(t.run) == [last]
    assert (t.run.newest_attempt(), t.run.completion()) == (2, last.file)
