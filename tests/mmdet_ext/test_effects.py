"""What hooks do to the dataset, the model and themselves is there again after a stop anywhere."""

from __future__ import annotations

import io
import logging
import types
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparing import read
from mmcv import ConfigDict
from mmcv.runner import Hook
from mmcv.runner import epoch_based_runner as mmcv_epochs
from torch import nn

from ecm_cluster.node import building
from mmdet_ext.effects import LIMIT, Effects, is_plain
from mmdet_ext.runner import PositionedEpochBasedRunner, PositionedIterBasedRunner
from mmdet_ext.sampling import Order, PositionedBatchSampler, SeededDataset, seed_all
from mmdet_ext.virtual_ranks import Share

EPOCHS, PER_EPOCH = 5, 3


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
    """New objects in the place of others, at an epoch's end and begin; one is taken away from where it stood."""

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
    assert not is_plain([np.float64(1)]) and not is_plain({"a": object()}) and not is_plain(list(range(LIMIT + 1)))


def test_an_object_that_refers_to_itself_ends_the_walk():
    data = Data()
    data.self = data
    effects = Effects(data, nn.Linear(1, 1), {})
    data.pipeline[1].factor = 9.0
    assert effects.state()["values"] == [
        ["dataset", [["attribute", "pipeline"], ["item", 1], ["attribute", "factor"]], 9.0]]
