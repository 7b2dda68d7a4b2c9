"""The part of :mod:`ranks` that imports torch and mmdet: once, in the server that all ranks are forked from."""

from __future__ import annotations

import hashlib
import json
import logging
import types
from datetime import timedelta
from typing import Any

import numpy as np
import processes.framework_in_process  # noqa: F401 (before anything else imports torch)
import torch
import torch.distributed as dist
from mmcv import Config
from mmcv.runner import epoch_based_runner, iter_based_runner
from processes.ranks import SEED, state_file

import mmdet_ext.register  # noqa: F401
from ecm_cluster.node.mmdet_trainer import building
from ecm_cluster.node.mmdet_trainer.trainer import MmdetTrainer
from ecm_cluster.node.training import loading
from ecm_cluster.node.world import RankInfo
from ecm_cluster.rundir.run import Run
from mmdet_ext.data.sampling import SeededDataset
from mmdet_ext.runners.virtual_ranks import Share

epoch_based_runner.time = iter_based_runner.time = types.SimpleNamespace(sleep=lambda seconds: None)  # type: ignore


class Stop(Exception):
    """Ends an attempt, as an agreed stop does."""


class Recording(SeededDataset):
    """Notes which sample was drawn where, and a digest of the augmented image."""

    noted: list[Any] = []

    def __getitem__(self, key: tuple[int, int, int]) -> Any:
        item = super().__getitem__(key)
        image = item["img"].data.numpy()
        self.noted.append([*key, hashlib.sha1(image.tobytes()).hexdigest()])
        return item


def run_rank(run: Run, attempt: int, rank: int, world: int, virtual: int, ends_at: int | None) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(attempt * 100 + rank)  # as left by earlier code
    np.random.seed(attempt * 100 + rank)
    store = dist.FileStore(str(run.path / f"store-{attempt}"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    group = dist.new_group(backend="gloo")
    cfg, share = Config.fromfile(str(run.config_file)), Share(virtual, world, rank)
    place = RankInfo(rank, world, rank, 0, 1, "test", 0, "local")
    loader, dataset = building.loader(cfg, share, SEED, "cpu")
    loader.seeded.__class__ = Recording
    logger = logging.getLogger("mmdet")
    logger.setLevel(logging.ERROR)
    logging.getLogger("mmcv").setLevel(logging.ERROR)
    model = building.model(cfg, place, SEED, "cpu", dataset.CLASSES)
    runner = building.runner(cfg, model, str(run.logs_dir), logger, {"seed": SEED}, run.log_stamp(attempt))
    losses: list[Any] = []

    def save() -> None:
        state = trainer.state()
        if rank == 0:
            torch.save(state, state_file(run, attempt))

    def after_step(epoch_end: bool) -> None:
        losses.append([runner.iter, runner.current_lr()[0], dict(runner.outputs["log_vars"])])
        if runner.iter == ends_at:
            save()
            raise Stop

    runner.prepare(SEED, None, share, dataset)
    trainer = MmdetTrainer(runner, loader, cfg, attempt, group)
    source = run.read_attempt(attempt)["from"]
    if source is None:
        trainer.begin()
    else:
        trainer.restore(loading.read(run.checkpoints_dir / source), source)
    try:
        trainer.train(after_step)
        save()
    except Stop:
        pass
    for kind, noted in (("samples", Recording.noted), ("losses", losses if rank == 0 else [])):
        (run.path / f"{attempt}-{rank}.{kind}.json").write_text(json.dumps(noted))
    dist.barrier(group)
