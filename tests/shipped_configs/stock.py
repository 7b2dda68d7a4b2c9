"""The same training and the same evaluation by stock mmdet: ``train_detector``, ``single_gpu_test``, ``evaluate``.

Both trainings see the same batches with the same random draws, or no comparison would be possible: stock mmdet is
given the product's loader, and the generators are seeded at each iteration as the product seeds them. It is also given
the names of a numpy of its time. Everything else (optimizer, learning rate, hooks, runner, fp16) is stock mmdet's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

SEED = 0


def train(config: Path, folder: Path, checkpoint: Path | None) -> dict[str, Any]:
    """Train as mmdet's ``tools/train.py`` does; how the weights then differ from those of ``checkpoint``, if given."""
    from mmcv import Config
    from mmcv.cnn.utils import revert_sync_batchnorm
    from mmcv.runner import HOOKS, Hook, epoch_based_runner, iter_based_runner
    from mmcv.utils import import_modules_from_strings
    from mmdet.apis import train as stock
    from mmdet.models import build_detector

    from ecm_cluster.node.mmdet_trainer import building
    from ecm_cluster.node.mmdet_trainer.config import names_of_old_numpy
    from mmdet_ext.data.sampling import PositionedBatchSampler, seed_all
    from mmdet_ext.runners.virtual_ranks import Share

    from .product import _NoSleep

    for module in (epoch_based_runner, iter_based_runner):
        module.time = _NoSleep()
    names_of_old_numpy()
    torch.set_num_threads(1)
    cfg = Config.fromfile(str(config))
    if cfg.get("custom_imports"):
        import_modules_from_strings(**cfg["custom_imports"])
    cfg.merge_from_dict({"work_dir": str(folder), "gpu_ids": [0], "seed": SEED, "device": "cpu"})
    cfg.evaluation = None

    class Epochs(PositionedBatchSampler):
        """Each iteration over all of it is the next epoch."""

        passes = 0

        def __iter__(self) -> Any:
            self.begin(self.passes)  # when the first batch is asked for: loaders with workers make two iterators
            self.passes += 1
            yield from super().__iter__()

    losses: list[float | None] = []

    @HOOKS.register_module()
    class SameDraws(Hook):
        """Seeds each iteration as the product's runner does."""

        def before_train_epoch(self, runner: Any) -> None:
            self.before_train_iter(runner)

        def before_train_iter(self, runner: Any) -> None:
            seed_all(SEED, 3, runner.iter, 0)

        def after_train_iter(self, runner: Any) -> None:
            losses.append(runner.outputs["log_vars"].get("loss"))

    loader, dataset = building.loader(cfg, Share(1, 1, 0), SEED, "cpu")
    loader.batch_sampler.__class__ = Epochs
    stock.build_dataloader = lambda *args, **options: loader
    seed_all(SEED, building.INIT)
    with one_process_group():
        model = build_detector(cfg.model, train_cfg=cfg.get("train_cfg"), test_cfg=cfg.get("test_cfg"))
    model.init_weights()
    building.rfnext_init_model(model, cfg)
    model.CLASSES = dataset.CLASSES
    model = revert_sync_batchnorm(model)  # as mmdet's guide says for a CPU
    cfg.custom_hooks = [{"type": "SameDraws", "priority": 0}, *(cfg.get("custom_hooks") or [])]
    cfg.checkpoint_config = {"interval": -1, "save_last": False}
    stock.train_detector(model, dataset, cfg, distributed=False, validate=False, meta={"seed": SEED})
    if checkpoint is None:
        return {"losses": losses}
    ours = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    theirs = model.state_dict()
    return {"losses": losses, **difference(ours, theirs)}


@contextlib.contextmanager
def one_process_group() -> Iterator[None]:
    """What mmcv's ``MMSyncBN`` needs to be built: a process group, of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> dict[str, Any]:
    """How far two sets of weights are apart: names that only one has, weights that differ, the largest difference."""
    shared = ours.keys() & theirs.keys()
    unlike = [name for name in shared if ours[name].numpy().tobytes() != theirs[name].numpy().tobytes()]
    apart = max((float((ours[n].double() - theirs[n].double()).abs().max()) for n in unlike if ours[n].numel()),
                default=0.0)
    return {"only_one_has": sorted(ours.keys() ^ theirs.keys())[:5], "unlike": len(unlike), "of": len(shared),
            "names": sorted(unlike)[:5], "apart": apart,
            "not_finite": sum(not bool(torch.isfinite(v.double()).all()) for v in ours.values())}


def evaluate(config: Path, checkpoint: Path) -> dict[str, Any]:
    """Score a checkpoint as mmdet's ``tools/test.py`` does; figures unrounded where mmdet keeps them.

    Returns:
        ``evaluate``: what mmdet's ``dataset.evaluate`` returns, and ``stats`` by kind: the twelve of COCO, or LVIS's.
    """
    from mmcv import Config
    from mmcv.runner import load_checkpoint, wrap_fp16_model
    from mmcv.utils import import_modules_from_strings
    from mmdet.apis import single_gpu_test
    from mmdet.datasets import build_dataloader, build_dataset, replace_ImageToTensor
    from mmdet.models import build_detector
    from mmdet.utils import build_dp, compat_cfg

    from ecm_cluster.node.inference.score_parts import numpy_as_it_was
    from ecm_cluster.node.mmdet_trainer import building

    torch.set_num_threads(1)
    cfg = compat_cfg(Config.fromfile(str(config)))
    if cfg.get("custom_imports"):
        import_modules_from_strings(**cfg["custom_imports"])
    cfg.data.test.test_mode = True
    if cfg.data.test_dataloader.get("samples_per_gpu", 1) > 1:
        cfg.data.test.pipeline = replace_ImageToTensor(cfg.data.test.pipeline)
    dataset = build_dataset(cfg.data.test)
    loader = build_dataloader(dataset, **{"samples_per_gpu": 1, "dist": False, "shuffle": False,
                                          **cfg.data.test_dataloader, "workers_per_gpu": 0})
    cfg.model.train_cfg = None
    with one_process_group():
        model = build_detector(cfg.model, test_cfg=cfg.get("test_cfg"))
    building.rfnext_init_model(model, cfg)
    if cfg.get("fp16") is not None and torch.cuda.is_available():
        wrap_fp16_model(model)
    load_checkpoint(model, str(checkpoint), map_location="cpu")
    model.CLASSES = dataset.CLASSES
    results = single_gpu_test(build_dp(model, "cpu", device_ids=[0]), loader)
    stats = _record_stats()
    how = dict(cfg.get("evaluation", {}))
    for key in ("interval", "tmpdir", "start", "gpu_collect", "save_best", "rule", "dynamic_intervals"):
        how.pop(key, None)
    with numpy_as_it_was():
        found = dataset.evaluate(results, **how)
    return {"evaluate": {k: v for k, v in found.items() if isinstance(v, (int, float))}, "stats": stats}


def _record_stats() -> dict[str, Any]:
    """Where COCO's and LVIS's evaluations, used from now on, leave their unrounded figures."""
    from mmdet.datasets import coco

    stats: dict[str, Any] = {}

    class Recording(coco.COCOeval):
        def summarize(self) -> None:
            super().summarize()
            stats[self.params.iouType if self.params.useCats else "proposal"] = [float(x) for x in self.stats]

    coco.COCOeval = Recording
    try:
        import lvis
    except ImportError:
        return stats

    class RecordingLVIS(lvis.LVISEval):
        def summarize(self) -> None:
            super().summarize()
            stats[self.params.iou_type] = {k: float(v) for k, v in self.get_results().items()}

    lvis.LVISEval = RecordingLVIS
    return stats
