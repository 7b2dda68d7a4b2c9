"""From the run's config to a model, an optimizer, a loader and a runner, as mmdet's ``train_detector`` does it."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from mmcv.runner import Fp16OptimizerHook, OptimizerHook, TextLoggerHook
from mmdet.core import build_optimizer
from mmdet.datasets import NumClassCheckHook, build_dataset
from mmdet.models import build_detector
from mmdet.utils import get_root_logger

from mmdet_ext.data.sampling import ClassAwareOrder, Order, PositionedBatchSampler, SeededDataset, group_flags, seed_all
from mmdet_ext.runners import effects, plain
from mmdet_ext.runners.runner import PositionedEpochBasedRunner, PositionedIterBasedRunner
from mmdet_ext.runners.virtual_ranks import Share

from ...datacheck import heads
from ...mmconfig import settled
from .. import signals
from ..world import RankInfo
from .batches import collate
from .parallel import OneProcess, Parallel, sync_batchnorm_alone, without_sync_batchnorm

try:
    from mmdet.utils import rfnext_init_model
except ImportError:  # before mmdet 2.26
    def rfnext_init_model(detector: Any, cfg: Any) -> None:
        """There is nothing to initialise."""

INIT = 4  # the stream of random numbers for initialisation


class ShieldedLoader(torch.utils.data.DataLoader):
    """A DataLoader whose workers Slurm's signals do not hurt, and who end with the process that started them."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "worker_init_fn": signals.prepare_loader_worker})

    def __iter__(self) -> Any:
        with signals.blocked():
            return super().__iter__()


class TrainingLoader(ShieldedLoader):
    """A loader as hooks know mmdet's, whose samples are drawn from a seeded view of its dataset.

    Workers that stay (``persistent_workers``) are started again after a hook has changed the dataset: they have a copy
    of it.

    Args:
        dataset: The training set itself: hooks reach it as ``runner.data_loader.dataset`` and change it.
        seeded: The wrapper that samples are asked from.
    """

    def __init__(self, dataset: Any, seeded: SeededDataset, **options: Any) -> None:
        self.seeded, self._starting, self._copied = seeded, False, None
        super().__init__(dataset, **options)
        self.__dict__["batch_size"] = options["batch_sampler"].batch_size  # torch leaves it out beside a batch sampler

    @property
    def dataset(self) -> Any:
        """The seeded view for torch when it starts an epoch, for everybody else the dataset."""
        return self.seeded if self._starting else self.seeded.dataset

    @dataset.setter
    def dataset(self, value: Any) -> None:
        self.seeded.dataset = value

    def __iter__(self) -> Any:
        if self._iterator is not None and plain.differ(self._copied, effects.fingerprint(self.dataset)):
            self._iterator = None
        return super().__iter__()

    def _get_iterator(self) -> Any:
        self._copied, self._starting = effects.fingerprint(self.dataset), True
        try:
            return super()._get_iterator()
        finally:
            self._starting = False

    @property
    def _dataloader(self) -> TrainingLoader:
        """Itself: by iterations mmcv has its IterLoader around the loader, and hooks look through it."""
        return self


def loader(cfg: Any, share: Share, seed: int, device: str) -> tuple[TrainingLoader, Any]:
    """The training loader of the virtual ranks assigned to a process, and the dataset."""
    dataset, options = build_dataset(cfg.data.train), settled.train_loader(cfg.data)
    batch, workers = options.pop("samples_per_gpu"), options.pop("workers_per_gpu")
    aware, shuffle = options.pop("class_aware_sampler", None), options.pop("shuffle", True)
    if aware:
        order: Order = ClassAwareOrder(dataset, batch, share.virtual, seed, aware.get("num_sample_class", 1))
    else:
        order = Order(group_flags(dataset), batch, share.virtual, seed, shuffle)
    options.pop("drop_last", None)  # every batch is complete
    if workers:
        options.setdefault("multiprocessing_context", cfg.get("mp_start_method", "fork"))
    else:  # torch refuses what has no meaning without workers
        options = {key: value for key, value in options.items() if key in ("pin_memory", "pin_memory_device")}
    return TrainingLoader(
        dataset, SeededDataset(dataset, seed), batch_sampler=PositionedBatchSampler(order, share.ranks),
        num_workers=workers, collate_fn=partial(collate, samples_per_gpu=batch),
        # a generator of its own: DataLoader draws a seed each epoch, which must not shift the model's draws
        generator=torch.Generator().manual_seed(seed),
        **{**options, "pin_memory": device != "cpu" and options.get("pin_memory", True)}), dataset


def model(cfg: Any, place: RankInfo, seed: int, device: str, classes: Any) -> torch.nn.Module:
    """The initialised detector, wrapped for training on this rank."""
    seed_all(seed, INIT)
    plain = device == "cpu" or place.world_size == 1
    with sync_batchnorm_alone() if plain else contextlib.nullcontext():
        detector = build_detector(cfg.model, train_cfg=cfg.get("train_cfg"), test_cfg=cfg.get("test_cfg"))
    detector.init_weights()
    rfnext_init_model(detector, cfg)
    detector.CLASSES = classes
    if plain:
        detector = without_sync_batchnorm(detector, get_root_logger())
    detector = detector.to(torch.device(device))
    if place.world_size == 1:
        return OneProcess(detector)
    return Parallel(detector, find_unused_parameters=cfg.get("find_unused_parameters", False))


def runner(cfg: Any, wrapped: torch.nn.Module, logs_dir: str, logger: Any, meta: dict[str, Any],
           stamp: str) -> Any:
    """mmcv's runner of the kind that the config asks for, with the config's hooks, ready to be restored."""
    kind = cfg.runner["type"]
    classes = {"EpochBasedRunner": PositionedEpochBasedRunner, "IterBasedRunner": PositionedIterBasedRunner}
    limits = {k: v for k, v in cfg.runner.items() if k != "type"}
    made: Any = classes[kind](wrapped, optimizer=build_optimizer(wrapped, cfg.optimizer), work_dir=logs_dir,
                         logger=logger, meta=meta, **limits)
    made.timestamp = stamp
    distributed = not isinstance(wrapped, OneProcess)
    if cfg.get("fp16") is not None:
        optimizer_config: Any = Fp16OptimizerHook(**(cfg.get("optimizer_config") or {}), **cfg.fp16,
                                                  distributed=distributed)
    elif distributed and "type" not in (cfg.get("optimizer_config") or {}):
        optimizer_config = OptimizerHook(**(cfg.get("optimizer_config") or {}))
    else:
        optimizer_config = cfg.get("optimizer_config") or {}
    made.register_training_hooks(cfg.lr_config, optimizer_config, None, cfg.get("log_config"),
                                 cfg.get("momentum_config"), custom_hooks_config=cfg.get("custom_hooks"))
    for hook in made.hooks:
        if isinstance(hook, TextLoggerHook) and hook.out_dir is not None:
            # mmcv copies to a folder named after that of the logs, which is the same in every run, and may then remove
            # the logs, which `status` and a resume read
            hook.out_dir = os.path.join(hook.out_dir, os.path.basename(os.path.dirname(logs_dir)))
            hook.keep_local = True
    return made


def check_heads(cfg: Any, wrapped: torch.nn.Module, dataset: Any, logger: Any) -> None:
    """Compare the heads' numbers of classes with the dataset's, as mmdet's hook does, for every kind of runner.

    A head with another number silently learns nonsense; IterBasedRunner never calls that hook.

    Raises:
        AssertionError: In mmdet's words.
    """
    if not heads.is_left_to_the_config(cfg):
        NumClassCheckHook()._check_head(SimpleNamespace(
            model=wrapped, logger=logger, data_loader=SimpleNamespace(dataset=dataset)))
