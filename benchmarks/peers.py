"""What the benchmarks of a training have in common: a run that is not started, and mmdet's own way to train it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout needs no install

from ecm_cluster import submit, synthesize  # noqa: E402
from ecm_cluster.base.errors import UserError  # noqa: E402
from ecm_cluster.mmconfig import config  # noqa: E402
from ecm_cluster.plan import create, planning  # noqa: E402
from ecm_cluster.rundir.run import Run  # noqa: E402

WEIGHTS = "weights.pth"
PRELOADED = 8  # batches that a training without data loading goes round


def common_options(made: argparse.ArgumentParser) -> None:
    """What is trained, and on what."""
    made.add_argument("--config", default="configs/demo.py", help="a config as for submit (default: the demo's)")
    made.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    made.add_argument("--threads", type=int, default=1, help="CPU threads of each rank (default: 1)")
    made.add_argument("--size", metavar="LONGxSHORT", help="scale all images to this, e.g. 1333x800")
    made.add_argument("--data-root", type=Path, help="LVIS v1; default: made-up images")
    made.add_argument("--train-images", type=int, default=600, help="made-up images (default: 600)")
    made.add_argument("--image-size", type=int, default=128, help="longer side of made-up images (default: 128)")
    made.add_argument("--classes", type=int, default=24, help="classes of made-up images (default: 24)")
    made.add_argument("--set", dest="options", action="append", default=[], metavar="KEY=VALUE",
                      help="mmdet option, as for submit")


def prepare(folder: Path, args: argparse.Namespace, ranks: int) -> Run:
    """A run as ``submit`` makes it, on made-up images unless ``--data-root`` names others; nothing is started."""
    data = args.data_root or folder / "data"
    sets = ["model.backbone.init_cfg=None", *args.options]
    with contextlib.redirect_stdout(sys.stderr):
        if args.data_root is None:
            synthesize.main([str(data), "--train-images", str(args.train_images), "--val-images", "8", "--classes",
                             str(args.classes), "--image-size", str(args.image_size), "--seed", "0"])
        parsed = submit.parser().parse_args([
            "--config", args.config, "--cluster", "local", "--device", args.device, "--gpus", str(ranks), "--threads",
            str(args.threads), "--data-root", str(data), "--runs-dir", str(folder), "--name", f"ranks-{ranks}",
            "--no-eval", *(word for text in sets for word in ("--set", text))])
        try:
            plan = planning.make(submit.read_job(parsed), "local")
        except UserError as error:
            raise SystemExit(str(error)) from None
        if plan.problems:
            raise SystemExit(plan.problems[0])
        return create.create(Run(folder / f"ranks-{ranks}"), plan)


def begin_alike(run: Run) -> None:
    """Leave random weights beside the run, for both to begin with: what a step costs depends on what is proposed."""
    from ecm_cluster.node.mmdet_trainer import imports

    imports.framework()
    from mmcv.runner import save_checkpoint
    from mmdet.models import build_detector

    from ecm_cluster.node.mmdet_trainer import config as mmdet_config

    cfg = mmdet_config.load(run)
    model = build_detector(cfg.model, train_cfg=cfg.get("train_cfg"), test_cfg=cfg.get("test_cfg"))
    model.init_weights()
    save_checkpoint(model, str(run.path / WEIGHTS))


def begin_attempt(run: Run, source: str | None = None) -> int:
    """The file of the run's next attempt, as a supervisor writes it."""
    number = run.newest_attempt() + 1
    run.attempt_file(number).write_text(json.dumps({"number": number, "from": source, "accepts": [source] * bool(
        source), "identity": "benchmark", "time": time.time()}))
    return number


def settings(cfg: Any, run: Run, size: str | None) -> Any:
    """The run's config, long enough for any number of rounds, with images of one size if asked for."""
    cfg.load_from = str(run.path / WEIGHTS)
    cfg.runner = {"type": cfg.runner["type"], **({"max_epochs": 10000} if "max_epochs" in cfg.runner else {
        "max_iters": 10**8})}
    if size:
        scale = tuple(int(side) for side in size.split("x"))
        for block in config.nested(cfg.data.train):
            if block.get("type") == "Resize":
                block.update(img_scale=scale, multiscale_mode="value")
    return cfg


def place_of(rank: int, ranks: int) -> Any:
    """The place of this process among the ranks of a machine."""
    from ecm_cluster.node import world

    os.environ.update(SUBMITIT_LOCAL_JOB_ID="benchmark", SUBMITIT_LOCAL_NTASKS=str(ranks),
                      SUBMITIT_LOCAL_GLOBALID=str(rank), SUBMITIT_LOCAL_LOCALID=str(rank), LOCAL_RANK=str(rank))
    return world.identify()


class Preloaded:
    """A loader whose batches are in memory; sampler, length and data set are those of the loader it replaces."""

    def __init__(self, loader: Any, batches: list[Any]) -> None:
        self.loader, self.batches = loader, batches

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        for i in range(len(self.loader)):
            yield self.batches[i % len(self.batches)]


def preload(cfg: Any, place: Any, seed: int, device: str) -> list[Any]:
    from ecm_cluster.node.mmdet_trainer import building
    from mmdet_ext.runners.virtual_ranks import Share

    share = Share(place.world_size, place.world_size, place.rank)
    loader, _ = building.loader(cfg, share, seed, device)
    return [batch for batch, _ in zip(loader, range(PRELOADED))]


def mmdets_own(run: Run, place: Any, cfg: Any, args: argparse.Namespace, batches: list[Any] | None = None,
               resume_from: str | None = None) -> None:
    """What mmdet's ``tools/train.py`` does after reading its config."""
    import cv2
    import torch
    import torch.distributed as dist
    from mmdet.apis import set_random_seed, train, train_detector
    from mmdet.datasets import build_dataset
    from mmdet.models import build_detector

    torch.set_num_threads(args.threads)
    cv2.setNumThreads(0)
    distributed = place.world_size > 1
    cfg.update(device=args.device, seed=0, work_dir=str(run.path / "mmdet"), resume_from=resume_from,
               gpu_ids=range(place.world_size) if distributed else [0 if args.device == "cuda" else -1])
    if args.device == "cuda":
        torch.cuda.set_device(place.local_rank if distributed else 0)
    if distributed:
        store = dist.FileStore(str(run.path / f"store-{args.attempt}"), place.world_size)
        dist.init_process_group("nccl" if args.device == "cuda" else "gloo", store=store, rank=place.rank,
                                world_size=place.world_size)
    if distributed and args.device == "cpu":
        train.build_ddp = ddp_for_a_cpu
    if batches:
        make = train.build_dataloader
        train.build_dataloader = lambda *given, **named: Preloaded(make(*given, **named), batches)
    set_random_seed(0)
    model = build_detector(cfg.model, train_cfg=cfg.get("train_cfg"), test_cfg=cfg.get("test_cfg"))
    model.init_weights()
    dataset = build_dataset(cfg.data.train)
    model.CLASSES = dataset.CLASSES
    train_detector(model, [dataset], cfg, distributed=distributed, validate=False, timestamp="benchmark", meta={})


def ddp_for_a_cpu(model: Any, device: str, device_ids: Any, **options: Any) -> Any:
    """mmcv's DDP with what mmdet 2.28 lacks on a CPU: batches are taken out of their containers."""
    from mmcv.parallel import MMDistributedDataParallel
    from mmcv.parallel.scatter_gather import scatter_kwargs

    class OnCpu(MMDistributedDataParallel):
        def train_step(self, *inputs: Any, **kwargs: Any) -> Any:
            args, named = scatter_kwargs(inputs, kwargs, [-1])
            return super().train_step(*args[0], **named[0])

    return OnCpu(model, **options)
