"""Model, optimizer, loader and runner are made of a config as mmdet's train_detector makes them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mmcv")
import torch  # noqa: E402 (after the check that the training stack is there)
from comparing import bits  # noqa: E402
from mmcv import Config  # noqa: E402
from mmcv.runner import HOOKS, Hook  # noqa: E402
from mmdet.core import build_optimizer  # noqa: E402
from mmdet.datasets import DATASETS  # noqa: E402
from torch import nn  # noqa: E402

from ecm_cluster.node.mmdet_trainer import building  # noqa: E402
from ecm_cluster.node.mmdet_trainer.parallel import OneProcess  # noqa: E402
from ecm_cluster.node.mmdet_trainer.trainer import MmdetTrainer  # noqa: E402
from ecm_cluster.rundir.run import Run  # noqa: E402
from mmdet_ext.runners.virtual_ranks import Share  # noqa: E402


@DATASETS.register_module(force=True)
class TenNumbers(torch.utils.data.Dataset):
    """Two classes, one of which only two images have."""

    CLASSES = ("a", "b")
    flag = np.array([0, 1] * 5)

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> int:
        return index

    def get_cat2imgs(self) -> dict[int, list[int]]:
        return {0: list(range(8)), 1: [8, 9]}


def config(**changes: Any) -> Config:
    return Config({"data": {"train": {"type": "TenNumbers"}, "samples_per_gpu": 2, "workers_per_gpu": 0,
                            **changes.pop("data", {})},
                   "optimizer": {"type": "SGD", "lr": 0.1}, "lr_config": {"policy": "fixed"},
                   "runner": {"type": "EpochBasedRunner", "max_epochs": 1}, **changes})


def samples(cfg: Config) -> list[list[int]]:
    loader, _ = building.loader(cfg, Share(), 3, "cpu")
    return [batch.tolist() for batch in loader]


class ConvNeXt(nn.Module):
    """Parameters under the names of mmcls's backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.downsample_layers, self.stages = nn.ModuleList([nn.Linear(2, 2)]), nn.ModuleList([
            nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))])


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = ConvNeXt(), nn.Linear(2, 1)


def runner(cfg: Config, folder: Path) -> Any:
    return building.runner(cfg, OneProcess(Detector()), str(folder), logging.getLogger("building"), {}, "stamp")


@pytest.mark.parametrize("optimizer", [
    {"type": "AdamW", "lr": 0.1, "weight_decay": 0.05, "constructor": "LearningRateDecayOptimizerConstructor",
     "paramwise_cfg": {"decay_rate": 0.5, "decay_type": "layer_wise", "num_layers": 2}},
    {"type": "SGD", "lr": 0.1, "weight_decay": 1e-4, "paramwise_cfg": {"bias_lr_mult": 2.0, "norm_decay_mult": 0.0}}])
def test_constructors_of_mmcv_and_of_mmdets_own_registry_give_the_parameter_groups_of_mmdet(tmp_path, optimizer):
    made = runner(config(optimizer=optimizer), tmp_path)
    theirs = build_optimizer(OneProcess(Detector()), Config({"optimizer": optimizer}).optimizer)
    rates = [(group["lr"], group["weight_decay"]) for group in made.optimizer.param_groups]
    assert rates == [(group["lr"], group["weight_decay"]) for group in theirs.param_groups]
    assert len({rate for rate, _ in rates}) > 1


def test_hooks_stand_in_the_order_of_their_priorities(tmp_path):
    @HOOKS.register_module(force=True)
    class First(Hook):
        pass

    @HOOKS.register_module(force=True)
    class Last(Hook):
        pass

    made = runner(config(custom_hooks=[{"type": "Last", "priority": "LOWEST"}, {"type": "First", "priority": 1}],
                         log_config={"interval": 1, "hooks": [{"type": "TextLoggerHook"}]}), tmp_path)
    names = [type(hook).__name__ for hook in made.hooks]
    assert (names[0], names[-1]) == ("First", "Last") and "TextLoggerHook" in names


def test_log_lines_are_counted_as_their_hook_does_and_the_runs_own_logs_stay(tmp_path):
    """By iterations under EpochBasedRunner; a copy elsewhere has the run's name."""
    run = Run(tmp_path / "mine")
    for made in (run.attempts_dir, run.logs_dir):
        made.mkdir(parents=True)
    run.attempt_file(1).write_text('{"from": null, "accepts": []}')
    for by_epoch in (True, False):
        cfg = config(log_config={"interval": 1, "hooks": [{
            "type": "TextLoggerHook", "by_epoch": by_epoch, "out_dir": str(tmp_path / "copies"),
            "keep_local": False}]})
        made = runner(cfg, run.logs_dir)
        loader, _ = building.loader(cfg, Share(), 3, "cpu")
        MmdetTrainer(made, loader, cfg, 1, None).begin()
        assert made.meta["by_epoch"] is by_epoch
    train_log = run.logs_dir / "train.log"
    train_log.write_text("kept\n")
    made.call_hook("before_run")
    made.call_hook("after_run")
    assert train_log.exists() and (tmp_path / "copies/mine/logs/train.log").read_text() == "kept\n"


def test_a_resumed_training_is_not_profiled_again(tmp_path):
    """Begun in its middle, mmcv's profiler continues after its end and torch raises."""
    run = Run(tmp_path)
    run.attempts_dir.mkdir()
    run.attempt_file(2).write_text('{"from": null, "accepts": []}')
    for done, hooks in ((0, 1), (3, 0)):
        cfg = config(custom_hooks=[{"type": "ProfilerHook", "by_epoch": False, "profile_iters": 4}])
        made, (loader, _) = runner(cfg, tmp_path), building.loader(cfg, Share(), 3, "cpu")
        made._iter = done
        MmdetTrainer(made, loader, cfg, 2, None).begin()
        assert sum(type(hook).__name__ == "ProfilerHook" for hook in made.hooks) == hooks


def test_the_loader_follows_shuffle_and_class_aware_sampling():
    plain = config(data={"train_dataloader": {"shuffle": False, "drop_last": True, "prefetch_factor": 3}})
    assert samples(plain) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    aware = config(data={"train_dataloader": {"class_aware_sampler": {"num_sample_class": 1}}})
    drawn = samples(aware)
    assert all(len({index > 7 for index in batch}) == 2 for batch in drawn), "each batch has an image of each class"
    assert sorted(sum(samples(config()), [])) != list(range(10)), "groups of five are filled up to whole batches"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_start_as_the_config_says_with_its_options(method):
    cfg = config(mp_start_method=method, data={"workers_per_gpu": 1, "train_dataloader": {
        "prefetch_factor": 3, "timeout": 60, "persistent_workers": True, "pin_memory": True}})
    loader, _ = building.loader(cfg, Share(), 3, "cpu")
    assert loader.multiprocessing_context.get_start_method() == method
    assert (loader.prefetch_factor, loader.timeout, loader.persistent_workers) == (3, 60, True)
    assert not loader.pin_memory, "there is no GPU to copy to"
    cfg.data.train_dataloader["multiprocessing_context"] = "forkserver"
    loader, _ = building.loader(cfg, Share(), 3, "cpu")
    assert loader.multiprocessing_context.get_start_method() == "forkserver"


def test_without_a_process_group_synchronised_norms_of_both_kinds_are_plain_with_the_weights_of_mmdet():
    """mmcv's own cannot even be built there, and begins with other weights than a plain one."""
    from mmcv.cnn.utils import revert_sync_batchnorm
    from mmdet.models import build_detector
    from torch import distributed

    from ecm_cluster.node.world import RankInfo

    settings = {"type": "FasterRCNN", "backbone": {
        "type": "ResNet", "depth": 18, "base_channels": 4, "norm_cfg": {"type": "MMSyncBN"}}, "neck": {
        "type": "FPN", "in_channels": [4, 8, 16, 32], "out_channels": 4, "num_outs": 4, "norm_cfg": {"type": "SyncBN"}},
        "rpn_head": {"type": "RPNHead", "in_channels": 4, "feat_channels": 4, "anchor_generator": {
            "type": "AnchorGenerator", "scales": [8], "ratios": [1.0], "strides": [4, 8, 16, 32]},
            "bbox_coder": {"type": "DeltaXYWHBBoxCoder"}},
        "roi_head": {"type": "StandardRoIHead"}, "train_cfg": {"rpn": None, "rcnn": None},
        "test_cfg": {"rpn": None, "rcnn": None}}
    made = building.model(config(model=settings), RankInfo(0, 1, 0, 0, 1, "x", 0, "local"), 0, "cpu", ("a",))
    kinds = {type(module).__name__ for module in made.modules() if "Norm" in type(module).__name__}
    assert kinds == {"_BatchNormXd"}
    building.seed_all(0, building.INIT)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        stock = build_detector(config(model=settings).model)
    finally:
        distributed.destroy_process_group()
    stock.init_weights()
    assert bits(revert_sync_batchnorm(stock).state_dict()) == bits(made.module.state_dict())


def test_samplers_of_mmdet_find_the_names_of_a_numpy_of_their_time(monkeypatch):
    from mmdet.core.bbox.samplers import IoUBalancedNegSampler

    from ecm_cluster.node.mmdet_trainer import config as run_config

    for name in ("int", "float"):
        monkeypatch.setitem(vars(np), name, None)
        monkeypatch.delitem(vars(np), name)
    run_config.names_of_old_numpy()
    sampler = IoUBalancedNegSampler(num=8, pos_fraction=0.25, floor_thr=-1)
    assert len(sampler.sample_via_interval(np.linspace(0, 0.4, 30), set(range(30)), 8)) == 8
