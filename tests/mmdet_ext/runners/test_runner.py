"""Stopped at any step and taken up again, a training ends in the same bits as one that ran through."""

from __future__ import annotations

import io
import json
import logging
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparing import read
from mmcv.runner import (
    EpochBasedRunner,
    Fp16OptimizerHook,
    GradientCumulativeOptimizerHook,
    Hook,
    LoggerHook,
    OptimizerHook,
    load_checkpoint,
)
from mmcv.runner import epoch_based_runner as mmcv_epochs
from torch import nn

from mmdet_ext.data.sampling import Order, PositionedBatchSampler, SeededDataset, seed_all
from mmdet_ext.runners.runner import PositionedEpochBasedRunner, PositionedIterBasedRunner
from mmdet_ext.runners.virtual_ranks import Share

SEED, SAMPLES, EPOCHS = 11, 13, 3  # 13 samples, 2 at a time: 7 iterations an epoch, the last one filled up
PER_EPOCH = 7
TOTAL = EPOCHS * PER_EPOCH
CLIP = dict(max_norm=0.5, norm_type=2)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """mmcv sleeps a second at the end of each run; threads cost more than they bring on batches of two."""
    monkeypatch.setattr(mmcv_epochs, "time", types.SimpleNamespace(sleep=lambda seconds: None))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Stop(Exception):
    """What a boundary raises to end a training."""


class Data(torch.utils.data.Dataset):
    """Noisy points: each asked-for sample is augmented."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((4,), float(index)) / SAMPLES + 0.1 * torch.randn(4) + 0.1 * float(np.random.randn())


class Drawn(SeededDataset):
    """Notes what was asked for; in workers this is lost."""

    def __init__(self, dataset: Any, seed: int) -> None:
        super().__init__(dataset, seed)
        self.keys: list[tuple[int, int, int]] = []

    def __getitem__(self, key: tuple[int, int, int]) -> Any:
        self.keys.append(key)
        return super().__getitem__(key)


class Net(nn.Module):
    """Dropout, noise from two generators, and buffers that change: everything that a wrong resume would shift."""

    CLASSES = ("cat", "dog")

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 1))
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)

    def train_step(self, batch: torch.Tensor, optimizer: Any, **kwargs: Any) -> dict[str, Any]:
        self.seen += len(batch)
        noise = torch.randn(len(batch), 1) + float(np.random.rand())
        loss = (self.layers(batch) - batch.sum(1, keepdim=True) + 0.1 * noise).square().mean()
        return {"loss": loss, "log_vars": {"loss": loss.item(), "noise": noise.mean().item()},
                "num_samples": len(batch)}


class Notes(dict):
    """Begins empty in each attempt: like a handle, it is not looked into."""

    fileno = None.__init__


class Epochs(list):
    fileno = None.__init__


@dataclass
class Watch(Hook):
    """Notes the learning rate and the loss of each iteration."""

    seen: Notes = field(default_factory=Notes)
    epochs: Any = field(default_factory=Epochs)

    def before_train_epoch(self, runner: Any) -> None:
        self.epochs.append((runner.epoch, runner.position))

    def after_train_iter(self, runner: Any) -> None:
        self.seen[runner.iter] = (runner.current_lr()[0], runner.outputs["log_vars"]["loss"])


class Training:
    """One start of a training, everything built again."""

    def __init__(self, folder: Path, kind: str, optimizer: str = "sgd", ends_at: int | None = None,
                 interval: int = 4, workers: int = 0, virtual: int = 1, together: int = 1) -> None:
        seed_all(SEED, 4)
        self.net, self.watch, self.ends_at, self.folder = Net(), Watch(), ends_at, folder
        made = {"sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
                "adamw": lambda p: torch.optim.AdamW(p, lr=0.01)}[optimizer](self.net.parameters())
        folder.mkdir(exist_ok=True)
        logger = logging.getLogger(f"test.{folder.name}")
        logger.propagate = False
        logger.addHandler(logging.NullHandler())
        common = dict(optimizer=made, work_dir=str(folder), logger=logger, meta={"seed": SEED, "note": "kept"})
        by_epoch = kind == "epoch"
        self.runner: Any = PositionedEpochBasedRunner(self.net, max_epochs=EPOCHS, **common) if by_epoch \
            else PositionedIterBasedRunner(self.net, max_iters=TOTAL - 2, **common)
        self.runner.timestamp = "log"
        step = [1, 2] if by_epoch else [PER_EPOCH, 2 * PER_EPOCH]
        self.runner.register_training_hooks(
            dict(policy="step", by_epoch=by_epoch, warmup="linear", warmup_iters=9, warmup_ratio=0.1, step=step),
            OptimizerHook(grad_clip=CLIP) if together == 1
            else GradientCumulativeOptimizerHook(cumulative_iters=together, grad_clip=CLIP), None,
            dict(interval=interval, hooks=[dict(type="TextLoggerHook", by_epoch=by_epoch)]))
        self.runner.register_hook(self.watch)
        order, self.drawn = Order(np.zeros(SAMPLES, np.int64), 2, virtual, SEED), Drawn(Data(), SEED)
        self.loader = torch.utils.data.DataLoader(
            self.drawn, batch_sampler=PositionedBatchSampler(order, range(virtual)), num_workers=workers,
            generator=torch.Generator().manual_seed(SEED))
        self.stored: bytes | None = None
        self.boundaries: list[tuple[int, int, int, bool]] = []
        self.runner.prepare(SEED, self.boundary, Share(virtual))

    def boundary(self, runner: Any, epoch_end: bool) -> None:
        self.boundaries.append((runner.iter, runner.epoch, runner.position, epoch_end))
        if runner.iter == self.ends_at:
            handle = io.BytesIO()
            torch.save(runner.state(), handle)
            self.stored = handle.getvalue()
            raise Stop

    def go(self, stored: bytes | None = None) -> Training:
        if stored is not None:
            self.runner.restore(read(io.BytesIO(stored)))
        try:
            self.runner.run([self.loader], [("train", 1)])
        except Stop:
            assert self.stored is not None
        return self


def bits(value: Any) -> Any:
    """A state as something that compares bit by bit."""
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), tuple(value.shape), value.detach().numpy().tobytes())
    if isinstance(value, dict):
        return {k: bits(v) for k, v in value.items()}
    return [bits(v) for v in value] if isinstance(value, (list, tuple)) else value


def logged(folder: Path) -> list[dict[str, Any]]:
    """The lines of mmcv's JSON log, without what the clock decides and without the headers of each start."""
    lines = [json.loads(line) for path in folder.glob("*.log.json") for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("time", "data_time", "timestamp", "memory")}
            for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Trainings that ran through, each made once: ``whole(kind, optimizer)``."""
    made: dict[tuple[str, str], Training] = {}

    def through(kind: str, optimizer: str = "sgd") -> Training:
        if (kind, optimizer) not in made:
            training = Training(tmp_path_factory.mktemp("whole"), kind, optimizer).go()
            assert training.runner.iter == (TOTAL if kind == "epoch" else TOTAL - 2)
            made[kind, optimizer] = training
        return made[kind, optimizer]

    return through


def assert_same_end(one: Training, other: Training) -> None:
    assert bits(other.net.state_dict()) == bits(one.net.state_dict())
    assert bits(other.runner.optimizer.state_dict()) == bits(one.runner.optimizer.state_dict())
    assert logged(other.folder) == logged(one.folder) != []
    mine, theirs = one.runner.state()["meta"], other.runner.state()["meta"]
    for meta in (mine, theirs):
        for key in ("time", "data_time"):
            meta["log_buffer"]["values"].pop(key)
    assert mine == theirs


@pytest.mark.parametrize("kind", ["epoch", "iter"])
@pytest.mark.parametrize("at", [1, 3, 6, 7, 8, 14])
def test_stopped_once_anywhere_it_ends_in_the_same_bits(whole, tmp_path, kind, at):
    through = whole(kind)
    first = Training(tmp_path / "parts", kind, ends_at=at).go()
    assert first.runner.iter == at
    second = Training(tmp_path / "parts", kind).go(first.stored)
    assert_same_end(through, second)
    assert {**first.watch.seen, **second.watch.seen} == through.watch.seen
    assert min(second.watch.seen) == at


@pytest.mark.parametrize("kind", ["epoch", "iter"])
def test_stopped_at_every_single_step_it_ends_in_the_same_bits(whole, tmp_path, kind):
    through = whole(kind, "adamw")
    stored, seen = None, {}
    for at in range(1, through.runner.iter):
        part = Training(tmp_path / "parts", kind, optimizer="adamw", ends_at=at).go(stored)
        stored, seen = part.stored, {**seen, **part.watch.seen}
    last = Training(tmp_path / "parts", kind, optimizer="adamw").go(stored)
    assert {**seen, **last.watch.seen} == through.watch.seen
    assert_same_end(through, last)


def test_workers_that_fetch_ahead_change_nothing(whole, tmp_path):
    through = whole("epoch")
    first = Training(tmp_path / "parts", "epoch", ends_at=10, workers=1).go()
    assert_same_end(through, Training(tmp_path / "parts", "epoch", workers=1).go(first.stored))


@pytest.mark.parametrize("kind", ["epoch", "iter"])
def test_generators_left_in_any_state_by_others_change_nothing(whole, tmp_path, kind):
    through = whole(kind)
    disturbed = Training(tmp_path / "disturbed", kind)
    torch.manual_seed(123)
    np.random.seed(123)
    assert_same_end(through, disturbed.go())


def test_the_learning_rate_warms_up_and_steps_as_in_stock_mmcv(whole):
    through = whole("epoch")
    rates = [through.watch.seen[i][0] for i in range(TOTAL)]
    expected = [0.05 * 0.1 ** (i // PER_EPOCH) * (1 - (1 - min(i / 9, 1)) * 0.9) for i in range(TOTAL)]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["epoch", "iter"])
def test_a_boundary_sees_where_the_next_step_belongs(whole, kind):
    through = whole(kind)
    places = [(i, i // PER_EPOCH, i % PER_EPOCH) for i in range(1, through.runner.iter + 1)]
    assert [b[:3] for b in through.boundaries] == places
    ends = [b[0] for b in through.boundaries if b[3]]
    assert ends == ([7, 14, 21] if kind == "epoch" else [19])


def test_entering_an_epoch_in_its_middle_starts_at_its_position(tmp_path):
    first = Training(tmp_path / "parts", "epoch", ends_at=10).go()
    second = Training(tmp_path / "parts", "epoch").go(first.stored)
    assert list(second.watch.epochs) == [(1, 3), (2, 0)]


def test_a_state_holds_plain_values_and_what_the_launcher_put_into_meta(tmp_path):
    first = Training(tmp_path / "parts", "epoch", ends_at=10).go()
    state = read(io.BytesIO(first.stored))
    meta = state["meta"]
    assert (meta["epoch"], meta["iter"], meta["position"]) == (1, 10, 3)
    assert (meta["seed"], meta["note"], meta["CLASSES"]) == (SEED, "kept", ["cat", "dog"])
    assert set(state["state_dict"]) == set(first.net.state_dict())
    second = Training(tmp_path / "parts", "epoch")
    second.runner.meta = {"seed": SEED, "own": 1}
    second.runner.restore(state)
    assert second.runner.meta["note"] == "kept"
    assert second.runner.meta["own"] == 1


def test_what_a_hook_keeps_in_meta_comes_back(tmp_path):
    first = Training(tmp_path / "parts", "epoch", ends_at=10)
    first.runner.meta["fp16"] = {"loss_scaler": {"cur_scale": 512.0}}
    first.go()
    second = Training(tmp_path / "parts", "epoch")
    second.runner.restore(read(io.BytesIO(first.stored)))
    assert second.runner.meta["fp16"] == {"loss_scaler": {"cur_scale": 512.0}}


def test_stock_mmcv_loads_the_weights_and_resumes(tmp_path):
    first = Training(tmp_path / "parts", "epoch", ends_at=7).go()
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(first.stored)
    fresh = Net()
    checkpoint = load_checkpoint(fresh, str(path), map_location="cpu", strict=True)
    assert checkpoint["meta"]["CLASSES"] == ["cat", "dog"]
    assert bits(fresh.state_dict()) == bits(first.net.state_dict())
    fresh = Net()
    stock = EpochBasedRunner(fresh, optimizer=torch.optim.SGD(fresh.parameters(), lr=0.05, momentum=0.9),
                             work_dir=str(tmp_path), logger=logging.getLogger("stock"), max_epochs=EPOCHS)
    stock.resume(str(path), map_location="cpu")
    assert (stock.epoch, stock.iter) == (1, 7)
    assert bits(fresh.state_dict()) == bits(first.net.state_dict())
    assert bits(stock.optimizer.state_dict()) == bits(first.runner.optimizer.state_dict())


@pytest.fixture
def stock_checkpoint(tmp_path):
    """What mmcv's own runner saves after two of the epochs, on four GPUs as mmdet notes it in the config."""
    fresh = Net()
    stock = EpochBasedRunner(fresh, optimizer=torch.optim.SGD(fresh.parameters(), lr=0.05, momentum=0.9),
                             work_dir=str(tmp_path / "stock"), logger=logging.getLogger("stock"), max_epochs=2,
                             meta={"config": "x = nowhere()\ngpu_ids = range(0, 4)\n", "env_info": "long",
                                   "hook_msgs": {"best_score": 0.5}})
    stock.register_training_hooks(dict(policy="fixed"), dict(), dict(interval=2))
    stock.run([torch.utils.data.DataLoader(Data(), batch_size=2, drop_last=True)], [("train", 1)])
    return tmp_path / "stock" / "epoch_2.pth"


@pytest.mark.parametrize("kind", ["epoch", "iteration"])
def test_a_training_of_mmdets_own_continues_with_its_optimizer_epoch_iteration_and_learning_rates(
        tmp_path, stock_checkpoint, kind):
    mine = Training(tmp_path / "mine", kind, virtual=2)
    mine.runner.resume(str(stock_checkpoint))
    table = read(stock_checkpoint)
    table["state_dict"].pop("scratch")  # mmcv keeps buffers that the model does not
    assert bits(mine.net.state_dict()) == bits(table["state_dict"])
    assert bits(mine.runner.optimizer.state_dict()["state"]) == bits(table["optimizer"]["state"])
    assert (mine.runner.epoch, mine.runner.position) == (2, 0)
    assert mine.runner.iter == table["meta"]["iter"] * 4 // 2, "as mmcv restates it for another number of GPUs"
    assert mine.runner.meta == {"seed": SEED, "note": "kept", "hook_msgs": {"best_score": 0.5}}


def test_weights_alone_cannot_be_resumed(tmp_path):
    torch.save({"state_dict": Net().state_dict()}, tmp_path / "weights.pth")
    mine = Training(tmp_path / "mine", "epoch")
    with pytest.raises(ValueError, match="weights.pth does not say at which epoch .* use load_from"):
        mine.runner.resume(str(tmp_path / "weights.pth"))


def test_a_resumed_foreign_training_may_be_stopped_and_its_hooks_do_not_get_the_older_state(
        tmp_path, stock_checkpoint):
    class Asks(Hook):
        def before_run(self, runner: Any) -> None:
            runner.resume(str(stock_checkpoint))

    def go(state: bytes | None, ends_at: int | None) -> Training:
        training = Training(tmp_path / "mine", "epoch", ends_at=ends_at)
        training.runner.register_hook(Asks())
        if state is None:
            training.runner.resume(str(stock_checkpoint))
        return training.go(state)

    start = 2 * (SAMPLES // 2) * 4  # one rank instead of four
    through, first = go(None, None), go(None, start + 3)
    assert min(through.watch.seen) == start and list(through.watch.epochs) == [(2, 0)]
    second = go(first.stored, None)
    assert min(second.watch.seen) == start + 3
    assert_same_end(through, second)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    first = Training(tmp_path / "parts", "epoch", ends_at=7).go()
    state = read(io.BytesIO(first.stored))
    state["state_dict"].pop("seen")
    with pytest.raises(RuntimeError, match="seen"):
        Training(tmp_path / "other", "epoch").runner.restore(state)


def test_several_optimizers_come_back_too(tmp_path):
    def made() -> Any:
        net = Net()
        parts = {"body": torch.optim.SGD(net.layers[0].parameters(), lr=0.1, momentum=0.9),
                 "head": torch.optim.AdamW(net.layers[4].parameters(), lr=0.2)}
        return PositionedEpochBasedRunner(net, optimizer=parts, work_dir=str(tmp_path), max_epochs=1,
                                          logger=logging.getLogger("several"))

    one, other = made(), made()
    one.model.train_step(torch.randn(4, 4), None)["loss"].backward()
    for optimizer in one.optimizer.values():
        optimizer.step()
    handle = io.BytesIO()
    torch.save(one.state(), handle)
    other.restore(read(io.BytesIO(handle.getvalue())))
    other._load(whole=True)  # as when its hooks have begun
    assert {k: bits(o.state_dict()) for k, o in other.optimizer.items()} == {
        k: bits(o.state_dict()) for k, o in one.optimizer.items()}


def test_a_log_buffer_in_a_checkpoint_reaches_back_one_interval_only(tmp_path):
    first = Training(tmp_path / "parts", "iter", ends_at=14).go()
    meta = read(io.BytesIO(first.stored))["meta"]
    assert {len(values) for values in meta["log_buffer"]["values"].values()} == {4}


class Swapping(Hook):
    """As EMA hooks do it: a buffer added when the run begins, swapped with a weight when an epoch begins or ends."""

    def before_run(self, runner: Any) -> None:
        runner.model.register_buffer("mean", runner.model.layers[0].weight.detach().clone())

    def after_train_iter(self, runner: Any) -> None:
        runner.model.mean.mul_(0.9).add_(runner.model.layers[0].weight.detach(), alpha=0.1)

    def before_train_epoch(self, runner: Any) -> None:
        kept = runner.model.mean.clone()
        runner.model.mean.copy_(runner.model.layers[0].weight.detach())
        runner.model.layers[0].weight.data.copy_(kept)

    after_train_epoch = before_train_epoch


@pytest.mark.parametrize("at", [3, 7, 10])
def test_an_epoch_entered_in_its_middle_swaps_no_weights_twice(tmp_path, at):
    def swapping(folder: str, **options: Any) -> Training:
        training = Training(tmp_path / folder, "epoch", **options)
        training.runner.register_hook(Swapping())
        return training

    through = swapping("whole").go()
    first = swapping("parts", ends_at=at).go()
    assert_same_end(through, swapping("parts").go(first.stored))


def test_a_hook_may_tell_an_epoch_it_resumes_from_one_it_begins(tmp_path):
    class Noting(Hook):
        noted: list[str] = []

        def before_train_epoch(self, runner: Any) -> None:
            self.noted.append(f"begins {runner.epoch}")

        def before_resumed_epoch(self, runner: Any) -> None:
            self.noted.append(f"resumes {runner.epoch} at {runner.position}")

    first = Training(tmp_path / "parts", "epoch", ends_at=10).go()
    second = Training(tmp_path / "parts", "epoch")
    second.runner.register_hook(Noting())
    second.go(first.stored)
    assert Noting.noted == ["resumes 1 at 3", "begins 2"]


@pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="this torch scales losses on GPUs alone")
def test_a_growing_loss_scale_comes_back(tmp_path):
    def scaled(folder: str, **options: Any) -> Training:
        training = Training(tmp_path / folder, "epoch", **options)
        hook = Fp16OptimizerHook(grad_clip=dict(max_norm=0.5), loss_scale=2.0, distributed=False)
        hook.loss_scaler = torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=4)
        hook._scale_update_param = None
        for other in [h for h in training.runner.hooks if isinstance(h, OptimizerHook)]:
            training.runner.hooks.remove(other)
        training.runner.register_hook(hook, priority="ABOVE_NORMAL")
        return training

    through = scaled("whole").go()
    assert through.runner.meta["fp16"]["loss_scaler"]["scale"] == 2.0 ** (1 + TOTAL // 4)
    first = scaled("parts", ends_at=10).go()
    assert_same_end(through, scaled("parts").go(first.stored))


@pytest.mark.parametrize("kind", ["epoch", "iter"])
def test_where_gradients_are_gathered_over_iterations_it_stops_between_optimizer_steps_and_ends_in_the_same_bits(
        tmp_path, kind):
    through = Training(tmp_path / "whole", kind, together=4).go()
    stops = [i for i, *_ in through.boundaries]
    total = through.runner.iter
    assert stops == [*range(4, total, 4), total], "also across the ends of epochs, and once the last few are in"
    stored = None
    for at in (4, 12, 16):  # 12: in the middle of the second epoch
        stored = Training(tmp_path / "parts", kind, together=4, ends_at=at).go(stored).stored
    assert_same_end(through, Training(tmp_path / "parts", kind, together=4).go(stored))


def test_an_epoch_that_ends_inside_a_step_is_reported_at_the_end_of_that_step(tmp_path):
    seen = Training(tmp_path / "whole", "epoch", together=4).go().boundaries
    assert [(iteration, epoch) for iteration, epoch, _, epoch_end in seen if epoch_end] == [(8, 1), (16, 2), (21, 3)]


@pytest.mark.parametrize("kind", ["epoch", "iter"])
def test_rescaled_in_mid_epoch_the_rest_of_it_is_dealt_out_among_the_new_ranks(tmp_path, kind):
    first = Training(tmp_path / "first", kind, virtual=2, ends_at=2).go()  # 4 of 8 batches of the first epoch
    parts = {"at once": (), "stopped again": (3,)}
    ends = {}
    for name, stops in parts.items():
        stored, drawn = first.stored, list(first.drawn.keys)
        for at in (*stops, None):
            part = Training(tmp_path / name, kind, virtual=3, ends_at=at).go(stored)
            stored = part.stored
            drawn += part.drawn.keys
        ends[name] = part
        epochs = [[key for key in drawn if key[0] == epoch] for epoch in range(3)]
        assert len(set(epochs[0])) == len(epochs[0]) == (2 * 2 + 2 * 3) * 2, "two batches fill up the last iteration"
        assert {index for _, _, index in epochs[0]} == set(range(SAMPLES))
        assert [len(keys) for keys in epochs[1:]] == [18, 18], "3 iterations of 3 ranks from then on"
    if kind == "epoch":
        assert ends["at once"].runner.iter == 2 + 2 + 2 * 3
        assert [(i, e, p) for i, e, p, _ in ends["at once"].boundaries][:3] == [(3, 0, 3), (4, 1, 0), (5, 1, 1)]
    assert_same_end(ends["at once"], ends["stopped again"])


def test_a_log_line_that_a_full_disk_does_not_take_ends_no_training(tmp_path, whole):
    class Filling(Hook):
        def before_train_iter(self, runner: Any) -> None:
            log = next(hook for hook in runner.hooks if isinstance(hook, LoggerHook))
            log.json_log_path = "/dev/full" if 5 <= runner.iter < 14 else str(tmp_path / "full/log.log.json")

    training = Training(tmp_path / "full", "epoch")
    training.runner.register_hook(Filling())
    training.go()
    assert logged(training.folder) == logged(whole("epoch").folder), "what was not written comes with the next line"
    assert bits(training.net.state_dict()) == bits(whole("epoch").net.state_dict())
