"""A loss that is no longer a number: said once, with its iteration; stopped where the job says so, on all ranks."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comparing import read

from ecm_cluster.attempts import endings
from ecm_cluster.base import files
from ecm_cluster.node import signals
from ecm_cluster.node.training import divergence
from ecm_cluster.node.training.step_hook import StepHook
from ecm_cluster.node.world import RankInfo
from ecm_cluster.reporting import trouble
from ecm_cluster.rundir import checkpoints
from ecm_cluster.rundir.run import Run


class Training:
    """A real step hook and a runner whose counters and loss are set by hand."""

    def __init__(self, path: Path, attempt: int = 1, **options: Any) -> None:
        from ecm_cluster.node.mmdet_trainer.trainer import MmdetTrainer
        from mmdet_ext.runners.runner import PositionedIterBasedRunner

        self.run = Run(path)
        self.run.attempts_dir.mkdir(parents=True, exist_ok=True)
        accepts = [m.file for m in checkpoints.accepted(self.run)]
        files.create_exclusive(self.run.attempt_file(attempt), json.dumps({"number": attempt, "accepts": accepts}))
        model = torch.nn.Linear(2, 2)
        model.train_step = None  # type: ignore[assignment]
        self.runner: Any = PositionedIterBasedRunner(
            model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), logger=logging.getLogger("divergence"),
            meta={}, max_iters=100)
        self.runner.prepare(0, None)
        loader: Any = SimpleNamespace(batch_sampler=None)
        self.hook = StepHook(self.run, attempt, MmdetTrainer(self.runner, loader, None, attempt, None),
                             RankInfo(0, 1, 0, 0, 1, "x", 0, "local"), None, self.runner.logger, every=1, minutes=0,
                             keep=2, **options)

    def step(self, *losses: float, norm: float | None = None) -> None:
        for loss in losses:
            self.runner._iter += 1
            self.runner.outputs = {"log_vars": {"loss": loss}}
            if norm is not None:
                self.runner.log_buffer.update({"grad_norm": norm}, 1)
            self.hook(False)
        self.hook.saver.settle(wait=True)  # type: ignore[union-attr]

    def warnings(self) -> list[str]:
        return [e["text"] for e in self.run.events() if e.kind == "warning"]


@pytest.fixture
def training(tmp_path):
    made: list[Training] = []

    def make(**options: Any) -> Training:
        made.append(Training(tmp_path / "run", **options))
        return made[-1]

    signals.clear()
    yield make
    for each in made:
        each.hook.saver.writer.close()  # type: ignore[union-attr]


def test_the_first_iteration_is_said_once_and_the_last_sound_checkpoint_stays(training, caplog):
    caplog.set_level(logging.WARNING)
    t = training()
    t.step(1.0, 1.0, 1.0, math.nan, math.nan, math.inf, math.nan, math.nan, math.nan)
    (text,) = t.warnings()
    assert text.startswith("the loss was nan from iteration 4 on; iter_0000002-a0001.pth is from before")
    assert "resume run --from 2" in text and sum(text in r.message for r in caplog.records) == 1
    assert [m.iteration for m in checkpoints.accepted(t.run)] == [2, 8, 9]
    assert trouble.declared(t.run) == f"; warning: {text}"


def test_a_job_that_says_so_stops_and_is_not_started_again(training):
    t = training(on_nan="stop")
    t.step(1.0, 1.0, 1.0)
    with pytest.raises(divergence.Diverged, match="the loss was nan from iteration 4 on; iter_0000002-a0001.pth"):
        t.step(math.nan)
    assert [m.iteration for m in checkpoints.accepted(t.run)] == [2, 3], "nothing is committed of it"
    from ecm_cluster.attempts import failures

    end = failures.end_of(divergence.Diverged("the loss was nan from iteration 4 on"), 0)
    t.run.ledger(1, "train000").write("end", **end)
    decision = endings.decide(t.run)
    assert (end["cause"], decision.action) == ("diverged", "stop") and "from iteration 4" in decision.reason


def test_the_end_says_it_and_a_resumed_training_knows_since_when(training):
    t = training()
    t.step(1.0, math.nan)
    t.hook.complete()
    assert [e["detail"] for e in t.run.events() if e.kind == "end"] == [
        "iteration 2, but the loss was nan from iteration 2 on"]
    state = read(max(checkpoints.accepted(t.run), key=lambda m: m.iteration).path(t.run))
    later = training(attempt=2)
    later.hook.take_over(state)
    assert divergence.SINCE not in state["meta"], "what the hook has added is not the trainer's"
    later.runner._iter = 50
    later.step(math.nan)
    assert later.warnings()[-1].startswith("the loss was nan from iteration 2 on; no checkpoint is from before")


def test_a_loss_that_recovers_is_said_too(training):
    t = training()
    t.step(1.0, math.inf, 1.0, 1.0)
    assert len(t.warnings()) == 2 and "is again since iteration 3" in t.warnings()[-1]
    assert trouble.declared(t.run).startswith("; warning: the loss was not finite for a while")
    newest = max(checkpoints.accepted(t.run), key=lambda m: m.iteration)
    assert divergence.SINCE not in read(newest.path(t.run))["meta"]


def test_gradients_that_are_not_finite_are_found_before_the_loss_is(training):
    t = training()
    t.step(1.0, norm=3.0)
    t.step(1.0, norm=math.nan)
    assert t.warnings()[0].startswith("the norm of the gradients was nan from iteration 2 on")


def test_steps_that_a_loss_scaler_skips_raise_no_alarm(training):
    t = training()
    t.runner._hooks.append(SimpleNamespace(loss_scaler=object()))
    t.step(1.0, math.inf, math.nan, 1.0, norm=math.inf)
    assert not t.warnings()
    t.step(*[math.nan] * 25)
    (text,) = t.warnings()
    assert text.startswith("the loss was nan from iteration 5 on")


RANK = """
import sys, torch.distributed as dist
from pathlib import Path
import logging
from ecm_cluster.node.training import divergence
from ecm_cluster.node.training.step_hook import StepHook
from ecm_cluster.node.training.trainable import Trainable
from ecm_cluster.node.world import RankInfo
from ecm_cluster.rundir.run import Run

path, rank = Path(sys.argv[1]), int(sys.argv[2])
dist.init_process_group("gloo", store=dist.FileStore(str(path / "store"), 2), rank=rank, world_size=2)
class Trainer(Trainable):
    iteration, iterations, loss = 0, 9, 1.0

trainer = Trainer()
made = StepHook(Run(path), 1, trainer, RankInfo(1, 2, 1, 0, 1, "x", 0, "local"), dist.group.WORLD,
                logging.getLogger("rank"), every=0, minutes=0, keep=2, on_nan="stop")
for iteration in range(1, 9):
    loss = float("nan") if (rank, iteration) == (1, 5) else 1.0
    trainer.iteration, trainer.loss = iteration, loss
    try:
        made(False)
    except divergence.Diverged as error:
        print(iteration, error)
        break
"""


@pytest.mark.slow
def test_all_ranks_stop_at_the_same_iteration_where_the_loss_of_one_is_not_a_number(tmp_path, root):
    ranks = [subprocess.Popen([sys.executable, "-c", RANK, str(tmp_path), str(rank)], cwd=root, stdout=subprocess.PIPE,
                              text=True) for rank in (0, 1)]
    said = [rank.communicate(timeout=120)[0].splitlines()[-1] for rank in ranks]  # below what gloo prints
    assert [text.split(" ", 1)[0] for text in said] == ["5", "5"]
    assert "the loss was nan from iteration 5 on" in said[1] and "the loss of a rank" in said[0]
