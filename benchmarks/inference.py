"""Memory of a rank that detects, by the size of the set: this project's chunks against mmdet's list of results.

    python benchmarks/inference.py [--images 250,1000,4000]

The demo's detector with random weights, 300 boxes and masks an image, on made-up images of 128 pixels, on one CPU.
``chunks`` is ``ecm_cluster.node.inference.detect.infer``, which ends with the detections on the disk; ``mmdet`` is
``single_gpu_test``, which ends with them in a list. One process for each; the peak is its largest resident set, and
"growth" what that is above the moment when model and data set were ready.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a checkout needs no install

PEERS = ("chunks", "mmdet")
EACH, CLASSES = 300, 24


def detector(data: Path) -> Any:
    """The demo's config, with answers as many as LVIS's."""
    from mmcv import Config

    import mmdet_ext.register  # noqa: F401
    from ecm_cluster.mmconfig import config

    cfg = config.rewrite_data_root(config.read(str(ROOT / "configs/demo.py")), data)
    cfg = config.apply_options(cfg, {
        "model.test_cfg.rcnn.score_thr": 0.0, "model.test_cfg.rcnn.max_per_img": EACH,
        "model.roi_head.bbox_head.num_classes": CLASSES, "model.roi_head.mask_head.num_classes": CLASSES})
    return Config(cfg)


def prepare(folder: Path, images: int) -> None:
    """A data set, and random weights."""
    from mmcv.runner import save_checkpoint
    from mmdet.datasets import build_dataset
    from mmdet.models import build_detector

    from ecm_cluster import synthesize

    synthesize.main([str(folder / "data"), "--train-images", "60", "--val-images", str(images), "--classes",
                     str(CLASSES), "--seed", "0"])
    cfg = detector(folder / "data")
    names = build_dataset({**cfg.data.test, "test_mode": True}).CLASSES
    model = build_detector(cfg.model)
    model.init_weights()
    save_checkpoint(model, str(folder / "weights.pth"), meta={"CLASSES": names})


def resident() -> float:
    """The largest resident set so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(peer: str, folder: Path) -> dict[str, float]:
    import torch

    from ecm_cluster.node.inference import detect
    from ecm_cluster.rundir.run import Evaluation

    torch.set_num_threads(1)
    cfg = detector(folder / "data")
    seen: dict[str, float] = {}

    def ready(done: int, total: int) -> None:
        if done == 1:  # the first image takes what every further one needs again
            seen.update(ready=resident(), began=time.perf_counter())

    if peer == "chunks":
        with tempfile.TemporaryDirectory() as work:
            detect.infer(cfg, folder / "weights.pth", Evaluation(work), 0, 1, "cpu", {}, None, ready)
    else:
        by_mmdet(cfg, folder, ready)
    return {"ready": seen["ready"], "peak": resident(), "seconds": time.perf_counter() - seen["began"]}


def by_mmdet(cfg: Any, folder: Path, ready: Any) -> None:
    import torch
    from mmcv.parallel import MMDataParallel
    from mmdet.apis import single_gpu_test
    from mmdet.datasets import build_dataloader

    from ecm_cluster.node.inference import detect, scored_set

    dataset, _, _ = scored_set.build(cfg)
    scored = scored_set.describe(dataset)
    model = MMDataParallel(detect.build_model(cfg, folder / "weights.pth", scored, "cpu"), device_ids=[-1])
    loader = build_dataloader(dataset, 1, 0, dist=False, shuffle=False)
    with torch.no_grad():
        model(return_loss=False, rescale=True, **next(iter(loader)))
    ready(1, len(dataset))
    results = single_gpu_test(model, loader)
    assert len(results) == len(dataset)


def child(*arguments: str) -> str:
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout.strip().rpartition("\n")[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="250,1000,4000", help="sizes of the set (default: 250,1000,4000)")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=PEERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.prepare:
        prepare(args.folder, args.prepare)
    elif args.measure:
        print("\n" + json.dumps(measure(args.measure, args.folder)))
    else:
        print("| images | | ready, MB | peak, MB | growth, MB | s |\n| --- | --- | --- | --- | --- | --- |")
        for images in map(int, args.images.split(",")):
            with tempfile.TemporaryDirectory() as folder:
                child("--prepare", str(images), "--folder", folder)
                for peer in PEERS:
                    took = json.loads(child("--measure", peer, "--folder", folder))
                    print(f"| {images} | {peer} | {took['ready']:.0f} | {took['peak']:.0f} | "
                          f"{took['peak'] - took['ready']:.0f} | {took['seconds']:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
