"""What hooks do to the dataset, the model and themselves is there again after a stop anywhere."""

from __future__ import annotations

import collections
import datetime
import enum
import io
import logging
import types
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmcv import ConfigDict
from mmcv.runner import Hook
from mmcv.runner import epoch_based_runner as mmcv_epochs
from torch import nn

from ecm_cluster.node.mmdet_trainer import building
from ecm_cluster.pickles import restricted
from mmdet_ext.data.sampling import Order, PositionedBatchSampler, SeededDataset, seed_all
from mmdet_ext.runners import hook_calls
from mmdet_ext.runners.effects import Effects
from mmdet_ext.runners.plain import LIMIT, is_plain
from mmdet_ext.runners.runner import PositionedEpochBasedRunner, PositionedIterBasedRunner
from mmdet_ext.runners.virtual_ranks import Share

EPOCHS, PER_EPOCH = 5, 3


def read(file: Any) -> Any:
    """As a checkpoint is read."""
    return torch.load(file, pickle_module=restricted, weights_only=False)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(mmcv_epochs, "time", types.SimpleNamespace(sleep=lambda seconds: None))


class Stop(Exception):
    """What a boundary raises to end a training."""


class Scale:
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


class Shift(Scale):
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.factor * torch.rand(())


class Data(torch.utils.data.Dataset):
    CLASSES = ("cat",)

    def __init__(self) -> None:
        self.pipeline = [Scale(1.0), Shift(0.1)]
        self.skipped: tuple[str, ...] = ()
        self.settings = ConfigDict(scale=dict(size=1.0))

    def __len__(self) -> int:
        return PER_EPOCH * 2

    def skip(self, names: tuple[str, ...]) -> None:
        self.skipped = names

    def __getitem__(self, index: int) -> torch.Tensor:
        x = torch.arange(4.0) + index
        for transform in self.pipeline:
            if type(transform).__name__ not in self.skipped:
                x = transform(x)
        return x * self.settings.scale.size


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.use_l1, self.loss = nn.Linear(4, 1), False, Scale(1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        return self.loss(y.abs().mean() if self.use_l1 else y.square().mean())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.calls = nn.Linear(4, 4), Head(), 0

    def train_step(self, batch: torch.Tensor, optimizer: Any, **kwargs: Any) -> dict[str, Any]:
        self.calls += 1
        loss = self.head(self.stem(batch)) * (1 + 0.01 * self.calls)
        return {"loss": loss, "log_vars": {"loss": loss.item()}, "num_samples": len(batch)}


class Switch(Hook):
    """Once, at an epoch: by a method of the dataset, on a head, and on the hook's own count."""

    def __init__(self) -> None:
        self.begun = 0

    def before_train_epoch(self, runner: Any) -> None:
        self.begun += 1
        if runner.epoch == 1:
            runner.data_loader.dataset.skip(("Shift",))
            runner.data_loader.dataset.settings.scale.size = 0.5
            runner.model.head.use_l1 = True
        if self.begun == 4:
            runner.model.stem.weight.requires_grad = False


class Replace(Hook):
    """New objects replace others, at an epoch's end and begin; one is removed."""

    def after_train_epoch(self, runner: Any) -> None:
        if runner.epoch == 0:
            runner.data_loader.dataset.pipeline = [Shift(0.3), Scale(2.0), Scale(1.5)]

    def before_train_epoch(self, runner: Any) -> None:
        if runner.epoch == 2:
            runner.data_loader.dataset.pipeline.pop(0)
            runner.model.head.loss = Shift(0.7)
        if runner.epoch == 3:
            runner.data_loader.dataset.pipeline[0].factor = 3.0


class ByIteration(Hook):
    """In the middle of epochs."""

    def before_train_iter(self, runner: Any) -> None:
        if runner.iter == 4:
            runner.data_loader.dataset.pipeline = [Scale(0.2)]
        runner.data_loader._dataloader.dataset.settings.scale.size = 1 + 0.1 * runner.iter

    def after_train_iter(self, runner: Any) -> None:
        if runner.iter == 8:
            runner.model.head.layer = Wider(runner.model.head.layer)


class Wider(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.weight, self.bias = inner.weight, inner.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * nn.functional.linear(x, self.weight, self.bias)


def train(folder: Path, hooks: list[Hook], ends_at: int | None = None, state: bytes | None = None,
          by_epoch: bool = True, workers: int = 0, stays: bool = False) -> tuple[list[float], bytes | None, Any]:
    """Losses from the start of an attempt on, the state that it ended with, and the runner."""
    seed_all(3, 4)
    net, data = Net(), Data()
    common = dict(optimizer=torch.optim.SGD(net.parameters(), lr=0.001), work_dir=str(folder),
                  logger=logging.getLogger("effects"), meta={})
    runner: Any = PositionedEpochBasedRunner(net, max_epochs=EPOCHS, **common) if by_epoch else \
        PositionedIterBasedRunner(net, max_iters=EPOCHS * PER_EPOCH, **common)
    runner.register_training_hooks(dict(policy="fixed"), dict())
    for hook in hooks:
        runner.register_hook(hook)
    order = Order(np.zeros(len(data), np.int64), 2, 1, 3)
    loader = building.TrainingLoader(
        data, SeededDataset(data, 3), batch_sampler=PositionedBatchSampler(order, 0), num_workers=workers,
        persistent_workers=stays, generator=torch.Generator().manual_seed(3))
    losses, stored = [], None

    def boundary(runner: Any, epoch_end: bool) -> None:
        nonlocal stored
        losses.append(runner.outputs["log_vars"]["loss"])
        if runner.iter == (ends_at or EPOCHS * PER_EPOCH):
            buffer = io.BytesIO()
            torch.save(runner.state(), buffer)
            stored = buffer.getvalue()
            raise Stop

    runner.prepare(3, boundary, Share(), data)
    if state is not None:
        runner.restore(read(io.BytesIO(state)))
    with pytest.raises(Stop):
        runner.run([loader], [("train", 1)])
    return losses, stored, runner


@pytest.mark.parametrize("kind", ["switch", "replace", pytest.param("all", marks=pytest.mark.slow), "by iteration"])
def test_stopped_anywhere_and_at_each_step_the_losses_are_the_same(tmp_path, kind):
    hooks = {"switch": [Switch], "replace": [Replace], "all": [Replace, Switch],
             "by iteration": [ByIteration]}[kind]
    go = partial(train, tmp_path, by_epoch=kind != "by iteration")
    whole, end, _ = go([h() for h in hooks])
    plain, _, _ = go([])
    assert whole[PER_EPOCH:] != plain[PER_EPOCH:], "the hooks do something"
    for at in range(1, EPOCHS * PER_EPOCH):
        losses, state, _ = go([h() for h in hooks], ends_at=at)
        rest, same_end, _ = go([h() for h in hooks], state=state)
        assert losses + rest == whole, f"stopped after iteration {at}"
        assert read(io.BytesIO(same_end))["done_by_hooks"] == read(io.BytesIO(end))["done_by_hooks"]
    state, losses = None, []
    for at in range(1, EPOCHS * PER_EPOCH + 1):
        part, state, _ = go([h() for h in hooks], ends_at=at, state=state)
        losses += part
    assert losses == whole


@pytest.mark.slow
@pytest.mark.parametrize("stays", [False, True])
def test_workers_see_what_hooks_did_to_the_dataset_though_they_stay(tmp_path, stays):
    whole, _, _ = train(tmp_path, [Replace(), Switch()])
    other, _, _ = train(tmp_path, [Replace(), Switch()], workers=1, stays=stays)
    assert other == whole


def test_hooks_reach_the_dataset_itself_and_the_loader_as_mmcv_has_it(tmp_path):
    class Look(Hook):
        def before_train_iter(self, runner: Any) -> None:
            loader = runner.data_loader
            assert type(loader.dataset) is type(loader._dataloader.dataset) is Data
            assert (loader.batch_size, len(loader), loader.drop_last) == (2, PER_EPOCH, False)
            assert not hasattr(loader.batch_sampler.sampler, "set_epoch") and not hasattr(loader.sampler, "set_epoch")
            loader.dataset.mark = 7

    _, _, runner = train(tmp_path, [Look()])
    assert runner.data_loader.seeded.dataset.mark == 7


def test_a_checkpoint_of_before_and_one_whose_parts_are_gone_are_taken_up(tmp_path, caplog):
    _, state, _ = train(tmp_path, [Switch()], ends_at=4)
    table = read(io.BytesIO(state))
    table["done_by_hooks"]["values"].append(["model", [["item", "head"], ["item", "gone"], ["attribute", "x"]], 1])
    buffer = io.BytesIO()
    torch.save(table, buffer)
    train(tmp_path, [Switch()], state=buffer.getvalue())
    assert "resumed without model.head.gone.x, which a hook had set" in caplog.text
    del table["done_by_hooks"]
    torch.save(table, buffer := io.BytesIO())
    train(tmp_path, [Switch()], state=buffer.getvalue())


def test_only_few_values_without_objects_are_plain():
    assert is_plain({"a": [1, (2.0, "x", None)], 3: {}})
    assert is_plain([np.float64(1), np.ones(3), {1}])
    assert not is_plain({"a": object()}) and not is_plain(list(range(LIMIT + 1)))


def test_an_object_that_refers_to_itself_ends_the_walk():
    data = Data()
    data.self = data
    effects = Effects(data, nn.Linear(1, 1), {})
    data.pipeline[1].factor = 9.0
    assert effects.state()["values"] == [
        ["dataset", [["attribute", "pipeline"], ["item", 1], ["attribute", "factor"]], 9.0]]


class Keeps(Hook):
    """Data of many kinds in itself and a helper, tensors, and a list that is recreated for each epoch."""

    def __init__(self) -> None:
        self.helper = types.SimpleNamespace(best=1e9, bad=0)
        self.recent: Any = collections.deque(maxlen=3)
        self.seen: set[int] = set()
        self.counts: Any = collections.defaultdict(int)
        self.mean, self.table = np.float32(0), np.zeros(2)
        self.losses: Any = None
        self.rng = np.random.RandomState(0)

    def before_run(self, runner: Any) -> None:
        self.shadow = {key: value.clone() for key, value in runner.model.state_dict().items()}

    def before_train_epoch(self, runner: Any) -> None:
        self.losses = []

    def before_train_iter(self, runner: Any) -> None:
        for group in runner.optimizer.param_groups:
            group["lr"] *= 0.9 ** self.helper.bad * (1 + 0.01 * len(self.seen) + 0.1 * float(self.mean))

    def after_train_iter(self, runner: Any) -> None:
        loss = runner.outputs["log_vars"]["loss"]
        self.recent.append(loss)
        self.seen.add(round(loss * 10))
        self.counts[round(loss), "x"] += 1
        self.mean = self.mean * np.float32(0.9) + np.float32(0.1 * loss)
        self.table = self.table + self.mean
        self.helper.bad += sum(self.recent) > self.helper.best
        self.helper.best = min(self.helper.best, sum(self.recent))
        self.losses.append(runner.outputs["loss"].detach())
        self.shadow["stem.bias"].add_(self.rng.rand())


class Grows(Hook):
    """At an epoch: a new layer instead of one, its group in the optimizer, another weight decay."""

    def before_train_epoch(self, runner: Any) -> None:
        if runner.epoch == 2:
            runner.model.extra = nn.Linear(4, 4)
            runner.model.stem = nn.Sequential(runner.model.stem, runner.model.extra)
            runner.optimizer.add_param_group({"params": [*runner.model.extra.parameters()], "lr": 0.01})

    def after_train_epoch(self, runner: Any) -> None:
        for group in runner.optimizer.param_groups:
            group["weight_decay"] += 0.1


@pytest.mark.parametrize("kind", [Keeps, Grows])
def test_what_hooks_keep_or_add_to_the_optimizer_comes_back_wherever_it_is_stopped(tmp_path, kind):
    whole, _, runner = train(tmp_path, [kind()])
    for at in (1, 3, 4, 7, 8, 13):
        losses, state, _ = train(tmp_path, [kind()], ends_at=at)
        rest, _, _ = train(tmp_path, [kind()], state=state)
        assert losses + rest == whole, f"stopped after iteration {at}"
    assert [name.split(".", 1)[1] for name in runner.unkept] == (["losses", "rng", "shadow"] if kind is Keeps else [])


def test_data_that_no_checkpoint_holds_is_named_and_plain_data_of_any_kind_is_not(tmp_path):
    data, model = Data(), nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    hook: Any = types.SimpleNamespace(circle={}, number=1)
    model[0].history, model[1].table = torch.zeros(3), list(range(10))
    effects = Effects(data, model, {"0 X": hook})
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    runner: Any = types.SimpleNamespace(optimizer=optimizer)
    effects.watch(hook, "after_train_epoch", runner, lambda runner: None)
    deep: Any = 1
    for _ in range(3000):
        deep = [deep]

    class Bad(list):
        def __len__(self) -> int:
            raise RuntimeError("no")

    class Worse:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("no")

    hook.worse = Worse()
    model[0].history += 1
    model[1].table += range(LIMIT)
    model[1].p, model[0].bad = 0.3, Bad([1])
    data.pipeline[0].factor = -0.0
    hook.circle["me"], hook.deep, hook.kind, hook.number = hook.circle, deep, enum.Enum("Kind", "A").A, True
    values = effects.state()["values"]
    assert [[root, path[-1][1], value] for root, path, value in values] == [
        ["dataset", "factor", -0.0], ["model", "p", 0.3], ["hook 0 X", "number", True]]
    assert sorted(effects.unkept) == ["hook 0 X.circle", "hook 0 X.deep", "hook 0 X.kind", "model.0.bad",
                                      "model.0.history", "model.1.table"]


def test_what_a_resumed_meta_holds_does_not_end_the_training_at_its_first_log_line(tmp_path):
    odd = {"when": datetime.datetime(2024, 1, 1), "tensor": torch.ones(2), ("a", 1): 2, "long": "x" * 10**6, "n": 1}
    circle: dict[str, Any] = {}
    circle["me"] = circle
    line = hook_calls._loggable({**odd, "circle": circle, "keys": {(1, 2): 3}})
    assert line == {"n": 1}
