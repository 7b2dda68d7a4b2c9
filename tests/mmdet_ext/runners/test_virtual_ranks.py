"""Several virtual ranks in one process: the same samples, draws, buffers and gradients as in as many processes."""

from __future__ import annotations

import logging
import types
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmcv.runner import OptimizerHook
from mmcv.runner import epoch_based_runner as mmcv_epochs
from torch import nn

from mmdet_ext.data.sampling import STEP, Order, PositionedBatchSampler, seed_all
from mmdet_ext.runners.runner import PositionedEpochBasedRunner
from mmdet_ext.runners.virtual_ranks import RankBuffers, Share


@given(st.integers(1, 8), st.integers(1, 8))
def test_processes_share_the_virtual_ranks_equally_or_refuse_in_one_line(virtual, world):
    if virtual % world:
        with pytest.raises(ValueError, match=rf"ranks {world} for a run submitted for {virtual}; expected one of 1"):
            Share(virtual, world, 0)
        return
    assigned = [rank for process in range(world) for rank in Share(virtual, world, process).ranks]
    assert assigned == list(range(virtual))


@given(st.lists(st.integers(0, 20), min_size=1, max_size=3).filter(any), st.integers(1, 3),
       st.sampled_from([(4, 2), (4, 1), (6, 3), (6, 2), (3, 1)]), st.integers(0, 5))
def test_fewer_processes_draw_the_same_samples_in_each_step(sizes, per_rank, numbers, epoch):
    virtual, world = numbers
    order = Order(np.repeat(np.arange(len(sizes)), sizes), per_rank, virtual, 3)

    def steps(processes: int) -> list[Counter[tuple[int, int, int]]]:
        found: list[Counter[tuple[int, int, int]]] = [Counter() for _ in range(order.iterations)]
        for process in range(processes):
            share = Share(virtual, processes, process)
            sampler = PositionedBatchSampler(order, share.ranks)
            sampler.begin(epoch)
            for i, batch in enumerate(sampler):
                found[i // share.count].update(batch)
        return found

    assert steps(world) == steps(virtual)


class Net(nn.Module):
    """Running statistics, a counter of its own, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.4), nn.Linear(4, 1))
        self.register_buffer("seen", torch.zeros(2))
        self.register_buffer("fixed", torch.ones(2))
        self.register_buffer("passing", torch.zeros(1), persistent=False)

    def train_step(self, batch: torch.Tensor, optimizer: Any, **kwargs: Any) -> dict[str, Any]:
        self.seen[0] += batch.sum().item()
        loss = (self.layers(batch) * (1 + self.seen[0])).square().mean()
        return {"loss": loss, "log_vars": {"loss": loss.item()}, "num_samples": len(batch)}


def data(iteration: int, rank: int) -> torch.Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(100 * iteration + rank))


class Loader:
    """Three steps an epoch, the batches of the virtual ranks one after the other."""

    def __init__(self, virtual: int) -> None:
        order = Order(np.zeros(3 * virtual, np.int64), 1, virtual, 0)
        self.virtual, self.batch_sampler = virtual, PositionedBatchSampler(order, range(virtual))

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Any:
        return iter([data(i, rank) for i in range(3) for rank in range(self.virtual)])


def reference(virtual: int, seed: int) -> tuple[Net, list[Net]]:
    """As so many processes would do it: a copy of the net for each rank, gradients averaged by hand."""
    torch.manual_seed(0)
    nets = [Net() for _ in range(virtual)]
    for net in nets[1:]:
        net.load_state_dict(nets[0].state_dict())
    for iteration in range(3):
        for rank, net in enumerate(nets):
            net.zero_grad()
            seed_all(seed, STEP, iteration, rank)
            net.train_step(data(iteration, rank), None)["loss"].backward()
        for parameters in zip(*(net.parameters() for net in nets)):
            mean = torch.stack([p.grad for p in parameters]).mean(0)
            for p in parameters:
                p.data -= 0.01 * mean
    return nets[0], nets


@pytest.mark.parametrize("scaled", [False, pytest.param(True, marks=pytest.mark.skipif(
    not hasattr(torch.amp, "GradScaler"), reason="this torch scales losses on GPUs alone"))])
def test_one_process_accumulates_what_many_would_average(tmp_path, monkeypatch, scaled):
    monkeypatch.setattr(mmcv_epochs, "time", types.SimpleNamespace(sleep=lambda seconds: None))
    virtual, seed = 3, 9
    torch.manual_seed(0)
    net = Net()
    runner: Any = PositionedEpochBasedRunner(net, optimizer=torch.optim.SGD(net.parameters(), lr=0.01), max_epochs=1,
                                             work_dir=str(tmp_path), logger=logging.getLogger("virtual"), meta={})
    hook: Any = OptimizerHook()
    if scaled:
        from mmcv.runner import Fp16OptimizerHook

        hook = Fp16OptimizerHook(loss_scale=8.0, distributed=False)
        hook.loss_scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    runner.register_hook(hook)
    runner.prepare(seed, None, Share(virtual, 1, 0))
    runner.run([Loader(virtual)], [("train", 1)])
    first, nets = reference(virtual, seed)
    for (name, one), other in zip(net.named_parameters(), first.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7, msg=name)
    assert runner.iter == 3
    for mine, theirs in zip(runner.rank_buffers.each(), nets):
        assert set(mine) == {"seen", "fixed", "layers.1.running_mean", "layers.1.running_var",
                             "layers.1.num_batches_tracked"}
        for name, value in mine.items():
            torch.testing.assert_close(value, dict(theirs.named_buffers())[name], msg=name)
    torch.testing.assert_close(net.seen, nets[0].seen)
    assert not torch.equal(nets[0].seen, nets[1].seen)


def test_a_buffer_that_a_hook_changes_between_steps_is_taken_as_it_is():
    net = Net()
    buffers = RankBuffers(net, 2)
    for _ in range(2):
        net.fixed += 1  # as a hook does, for all ranks alike
        buffers.begin_step()
        for i in range(2):
            buffers.enter(i)
            net.seen[1] += 1 + i
            buffers.leave(i)
        buffers.end_step()
    one, other = buffers.each()
    assert (one["seen"][1], other["seen"][1]) == (2, 4)
    assert one["fixed"].tolist() == other["fixed"].tolist() == [3, 3]
    assert net.seen[1] == 2


def test_buffers_come_back_to_the_virtual_ranks_they_belong_to():
    net = Net()
    buffers = RankBuffers(net, 2)
    buffers.give([{"seen": torch.tensor([1.0, 1.0])}, {"seen": torch.tensor([2.0, 2.0])}])
    net.seen.fill_(1.0)  # the first one's are part of the model's restored state
    one, other = buffers.each()
    assert (one["seen"][0], other["seen"][0]) == (1, 2)
