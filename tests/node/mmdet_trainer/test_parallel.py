"""The wrappers between runner and detector, on the CPU; on GPUs see test_gpu_contract."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmcv")
import torch  # noqa: E402 (after the check that the training stack is there)
import torch.distributed as dist  # noqa: E402
from mmcv.cnn import build_norm_layer  # noqa: E402
from mmcv.ops import SyncBatchNorm  # noqa: E402
from mmcv.parallel import DataContainer, is_module_wrapper  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils import checkpoint  # noqa: E402

from ecm_cluster.attempts.failures import NotStartable  # noqa: E402
from ecm_cluster.node.mmdet_trainer import parallel  # noqa: E402

BATCH = {"x": DataContainer([torch.ones(2, 3)], stack=True)}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(3, 1), nn.Linear(3, 1)
        self.all = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.used(x[0] if isinstance(x, (list, tuple)) else x)
        return y + self.unused(x[0]) if self.all else y

    def train_step(self, data: dict[str, Any], optimizer: Any) -> dict[str, Any]:
        return {"loss": self(**data).sum()}

    val_step = train_step


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("find_unused", [False, True])
def test_a_wrapper_of_one_rank_and_of_several_take_the_same_batches_in_every_way(group, find_unused):
    torch.manual_seed(0)
    net = Net()
    answers = []
    for wrapper in (parallel.OneProcess(net), parallel.Parallel(net, find_unused)):
        assert is_module_wrapper(wrapper) and wrapper.output_device is None
        answers += [wrapper(**BATCH).sum().item(), wrapper.train_step(BATCH, None)["loss"].item(),
                    wrapper.val_step(BATCH, None)["loss"].item()]
    assert answers == [answers[0]] * 6


def test_the_first_step_sums_in_the_same_buckets_as_all_others_and_begins_without_gradients(group):
    net = Net()
    net.used = nn.Sequential(nn.Linear(3, 500), *(nn.Linear(500, 500) for _ in range(3)))  # more than one bucket holds
    wrapped = parallel.Parallel(net)
    assert all(p.grad is None for p in net.parameters())
    names = {p: n for n, p in net.named_parameters()}
    steps: list[list[list[str]]] = []

    def note(_, bucket):  # without annotations: DDP compares them with its own types
        steps[-1].append([names[p] for p in bucket.parameters()])
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    wrapped.register_comm_hook(None, note)
    for _ in range(3):
        steps.append([])
        wrapped.train_step(BATCH, None)["loss"].backward()
    assert steps[0] == steps[1] == steps[2]
    assert len(steps[0]) > 1, "gradients are reduced while others are computed"
    assert steps[0][0][0] == "unused.bias", "the last layers' first"


def test_a_backward_pass_that_misses_parameters_names_them_and_the_remedy(group):
    net = Net()
    wrapped = parallel.Parallel(net)
    wrapped.train_step(BATCH, None)["loss"].backward()
    net.zero_grad(set_to_none=True)
    net.all = False
    with pytest.raises(NotStartable, match=r"depend on unused\.weight, unused\.bias, so .* find_unused_parameters"):
        wrapped.train_step(BATCH, None)["loss"].backward()


def test_of_many_missing_parameters_a_few_are_named():
    said = parallel.unused_parameters([f"layer{n}.weight" for n in range(9)])
    assert "layer4.weight and 4 more, so" in said and "layer5" not in said


def test_parameters_that_may_be_missing_do_not_fail(group):
    net = Net()
    net.all = False
    wrapped = parallel.Parallel(net, find_unused_parameters=True)
    for _ in range(2):
        wrapped.train_step(BATCH, None)["loss"].backward()


class Recomputing(Net):
    """Its first layer is called as mmdet's backbones call theirs with ``with_cp=True``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[0] if isinstance(x, (list, tuple)) else x
        return self.unused(x) + checkpoint.checkpoint(self.used, x.clone().requires_grad_())


@pytest.mark.parametrize("find_unused", [False, True])
def test_activations_may_be_computed_again_in_the_backward_pass(group, find_unused):
    net = Recomputing()
    wrapped = parallel.Parallel(net, find_unused_parameters=find_unused)
    for _ in range(2):
        net.zero_grad()
        wrapped.train_step(BATCH, None)["loss"].backward()
    assert all(torch.equal(p.grad, torch.full_like(p, 2.0)) for p in net.parameters())


def test_synchronised_norms_become_plain_ones_with_the_same_weights_and_a_line_in_the_log(group, caplog):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SyncBatchNorm(4), SyncBatchNorm(4))
    before = model.state_dict()
    with caplog.at_level(logging.INFO, "log"):
        plain = parallel.without_sync_batchnorm(model, logging.getLogger("log"))
    assert not any(isinstance(m, (nn.SyncBatchNorm, SyncBatchNorm)) for m in plain.modules())
    assert all(torch.equal(plain.state_dict()[key], value) for key, value in before.items())
    plain(torch.ones(2, 3, 4, 4)).sum().backward()
    assert "2 SyncBN layers act as plain BN" in caplog.text


def test_norms_that_need_a_process_group_begin_with_their_own_weights_where_there_is_none():
    def build() -> nn.Module:
        torch.manual_seed(0)
        return build_norm_layer(dict(type="MMSyncBN", eps=1e-3, stats_mode="N"), 4)[1]

    with parallel.sync_batchnorm_alone():
        alone = build()
    with pytest.raises((RuntimeError, ValueError, AssertionError)):
        build()  # as it was
    plain = parallel.without_sync_batchnorm(alone, logging.getLogger("log"))
    torch.manual_seed(0)
    assert torch.equal(plain.weight, torch.empty(4).uniform_()) and plain.eps == 1e-3  # ones in a plain one


def test_a_model_without_synchronised_norms_is_left_alone(caplog):
    model = nn.Sequential(nn.BatchNorm2d(3))
    assert parallel.without_sync_batchnorm(model, logging.getLogger("log")) is model
    assert caplog.text == ""
