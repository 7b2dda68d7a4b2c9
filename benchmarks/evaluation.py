"""Detections to LVIS figures: this project from arrays against its peers from JSON, time and peak memory.

    python benchmarks/evaluation.py [--images 500] [--types bbox,segm] [--peers …] [--folder FOLDER]

Synthetic images of 640 x 480 pixels with 1203 classes by Zipf's law: on each 1 + 2.7 classes and 12 objects on
average, up to 7 classes known to be missing, every tenth class not annotated throughout. 300 detections an image, of
which two fifths cover objects and the others anywhere, in all two thirds in classes that are listed for their image
(nobody scores the others); masks are outlines of 16 points. One process for each peer, one after the other; the clock
starts when everything is imported and the input is where the peer expects it, which is

    arrays          ecm_cluster.scoring.score.score, detections in memory as numpy columns
    shards          the same with the columns read from their file
    hotcoco, vernier, faster-coco-eval, lvis    the library called directly, detections in a JSON file
    mmdet           results in memory as mmdet's models give them, then results2json and lvis-api

and ends when the figures are there. Annotations are read from JSON by all. What is not installed is left out, with
a line that says so. Peak memory is the largest resident set of the process, "before" what imports and input took of it.
The ratios are of CPU time: on a machine with other work the time that passes says little.
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
from typing import Any, Callable

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout needs no install

CLASSES, HEIGHT, WIDTH, EACH = 1203, 480, 640, 300
Task = Callable[[], float]  # what is timed; returns the AP


def outlines(rng: np.random.Generator, boxes: np.ndarray, points: int = 16) -> np.ndarray:
    """(n, 2 * points) polygons, star-shaped around the centres of their boxes."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    radius = rng.uniform(0.7, 1.0, (len(boxes), points)) / 2
    x = boxes[:, :1] + boxes[:, 2:3] * (0.5 + radius * np.cos(angle))
    y = boxes[:, 1:2] + boxes[:, 3:] * (0.5 + radius * np.sin(angle))
    return np.stack([x, y], axis=2).reshape(len(boxes), -1)


def random_boxes(rng: np.random.Generator, n: int) -> np.ndarray:
    size = np.exp(rng.normal(3.8, 0.9, (n, 2))).clip(4, [WIDTH * 0.9, HEIGHT * 0.9])
    return np.hstack([rng.uniform(0, 1, (n, 2)) * ([WIDTH, HEIGHT] - size), size])


def detected(rng: np.random.Generator, boxes: np.ndarray, labels: np.ndarray, listed: np.ndarray, zipf: np.ndarray,
             ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and boxes of one image, in the order and precision of a model's answer."""
    near = rng.integers(0, len(boxes), 2 * EACH // 5)
    elsewhere = EACH - len(near)
    noise = rng.normal(0, 1, (len(near), 4)) * rng.choice([0.02, 0.08, 0.2], (len(near), 1))
    found = np.vstack([boxes[near] + noise * boxes[near][:, [2, 3, 2, 3]], random_boxes(rng, elsewhere)])
    found[:, :2] = found[:, :2].clip(0, [WIDTH - 3, HEIGHT - 3])
    found[:, 2:] = np.minimum(found[:, 2:].clip(2), [WIDTH, HEIGHT] - found[:, :2])
    wrong = np.where(rng.random(elsewhere) < 5 / 18, rng.choice(listed, elsewhere),
                     rng.choice(CLASSES, elsewhere, p=zipf))
    label = np.concatenate([labels[near], wrong])
    order = np.argsort(label, kind="stable")
    scores = rng.beta(1, 6, EACH).astype(np.float32).astype(np.float64)
    return label[order], scores[order], found[order].astype(np.float32).astype(np.float64)


def prepare(folder: Path, images: int) -> None:
    """Annotations, and the detections as columns and as JSON."""
    from pycocotools import mask as mask_utils

    from ecm_cluster.scoring.detection_files import DetectionWriter, read_shards
    from ecm_cluster.scoring.detections import of_image

    rng = np.random.default_rng(0)
    zipf = 1 / np.arange(1, CLASSES + 1) ** 1.2
    zipf /= zipf.sum()
    frequency = "f" * 405 + "c" * 461 + "r" * 337  # as many as LVIS v1 has
    document: dict[str, Any] = {"images": [], "annotations": [], "categories": [
        {"id": k + 1, "name": f"class_{k}", "frequency": frequency[k], "image_count": CLASSES - k,
         "instance_count": 2 * (CLASSES - k)} for k in range(CLASSES)]}
    writer = DetectionWriter(images)
    for at in range(images):
        present = np.unique(rng.choice(CLASSES, 1 + rng.poisson(2.7), p=zipf))
        absent = np.setdiff1d(rng.integers(0, CLASSES, 7), present)
        labels = np.concatenate([present, rng.choice(present, rng.poisson(8.5))])
        boxes = random_boxes(rng, len(labels)).round(2)
        document["images"].append({
            "id": at + 1, "height": HEIGHT, "width": WIDTH, "neg_category_ids": (absent + 1).tolist(),
            "not_exhaustive_category_ids": (present[rng.random(len(present)) < 0.1] + 1).tolist(),
            "coco_url": f"http://images.cocodataset.org/val2017/{at + 1:012d}.jpg"})
        for label, box, outline in zip(labels.tolist(), boxes.tolist(), outlines(rng, boxes).round(2).tolist()):
            document["annotations"].append({
                "id": len(document["annotations"]) + 1, "image_id": at + 1, "category_id": label + 1, "bbox": box,
                "area": round(box[2] * box[3] * 0.6, 2), "segmentation": [outline]})
        label, scores, found = detected(rng, boxes, labels, np.concatenate([present, absent]), zipf)
        rles = mask_utils.frPyObjects(outlines(rng, found).tolist(), HEIGHT, WIDTH)
        writer.add(at, of_image(at + 1, label + 1, scores, found, rles))
    (folder / "annotations.json").write_text(json.dumps(document))
    shard = writer.write(folder / "shard.npz")
    for iou_type in ("bbox", "segm"):
        (folder / f"{iou_type}.json").write_text(json.dumps(read_shards([shard]).to_lvis_results(iou_type)))


def arrays(folder: Path, iou_type: str) -> Task:
    import hotcoco  # noqa: F401

    from ecm_cluster.scoring import hotcoco as hotcoco_api  # noqa: F401
    from ecm_cluster.scoring import score
    from ecm_cluster.scoring.detection_files import read_shards

    found = read_shards([folder / "shard.npz"])
    return lambda: score.score(folder / "annotations.json", found, [iou_type])["figures"][iou_type]["AP"]


def shards(folder: Path, iou_type: str) -> Task:
    from ecm_cluster.scoring import hotcoco as hotcoco_api  # noqa: F401
    from ecm_cluster.scoring import score
    from ecm_cluster.scoring.detection_files import read_shards

    return lambda: score.score(folder / "annotations.json", read_shards([folder / "shard.npz"]),
                                 [iou_type])["figures"][iou_type]["AP"]


def by_hotcoco(folder: Path, iou_type: str) -> Task:
    import hotcoco

    def task() -> float:
        truth = hotcoco.COCO(str(folder / "annotations.json"))
        results = hotcoco.LVISResults(truth, str(folder / f"{iou_type}.json"))
        evaluation = hotcoco.COCOeval(truth, results, iou_type, lvis_style=True)
        for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
            step()
        return evaluation.get_results()["AP"]

    return task


def by_vernier(folder: Path, iou_type: str) -> Task:
    from vernier import instance  # type: ignore[import-not-found, unused-ignore]

    def task() -> float:
        truth = instance.CocoDataset.from_lvis_json((folder / "annotations.json").read_bytes())
        evaluate = instance.evaluate_bbox_grid if iou_type == "bbox" else instance.evaluate_segm_grid
        grid = evaluate(truth, (folder / f"{iou_type}.json").read_bytes(), parity_mode="strict",
                        max_dets_per_image=EACH, use_cats=True)
        return grid.accumulate([EACH]).summarize_lvis(truth, [EACH]).stats[0]

    return task


def by_faster_coco_eval(folder: Path, iou_type: str) -> Task:
    from faster_coco_eval import COCO, COCOeval_faster  # type: ignore[import-not-found, unused-ignore]

    def task() -> float:
        truth = COCO(str(folder / "annotations.json"))
        evaluation = COCOeval_faster(truth, truth.loadRes(str(folder / f"{iou_type}.json")), iou_type,
                                     lvis_style=True, print_function=lambda *_: None)
        evaluation.params.maxDets = [EACH]
        for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
            step()
        return float(evaluation.stats[0])

    return task


def by_lvis(folder: Path, iou_type: str, results: str | None = None) -> Task:
    import lvis

    np.float = float  # type: ignore[attr-defined]  # as in the numpy that lvis-api was written for
    results = results or str(folder / f"{iou_type}.json")

    def task() -> float:
        truth = lvis.LVIS(str(folder / "annotations.json"))
        evaluation = lvis.LVISEval(truth, lvis.LVISResults(truth, results), iou_type)
        evaluation.run()
        return float(evaluation.results["AP"])

    return task


def by_mmdet(folder: Path, iou_type: str) -> Task:
    from mmdet.datasets import LVISV1Dataset

    from ecm_cluster.scoring.detection_files import read_shards

    found = read_shards([folder / "shard.npz"])
    results: list[Any] = []
    for at in range(0, len(found), EACH):
        label = found.category_id[at:at + EACH] - 1
        box = found.bbox[at:at + EACH]
        rows = np.hstack([box[:, :2], box[:, :2] + box[:, 2:], found.score[at:at + EACH, None]]).astype(np.float32)
        ends = np.searchsorted(label, np.arange(CLASSES + 1)).tolist()
        boxes = [rows[b:e] for b, e in zip(ends, ends[1:])]
        masks = [[found.masks.rle(at + k) for k in range(b, e)] for b, e in zip(ends, ends[1:])] if found.masks else []
        results.append(boxes if iou_type == "bbox" else (boxes, masks))
    del found
    names = [f"class_{k}" for k in range(CLASSES)]
    dataset = LVISV1Dataset(str(folder / "annotations.json"), pipeline=[], classes=names, test_mode=True)

    def task() -> float:
        dataset.results2json(results, str(folder / "mmdet"))
        return by_lvis(folder, iou_type, str(folder / f"mmdet.{iou_type}.json"))()

    return task


PEERS: dict[str, Callable[[Path, str], Task]] = {
    "arrays": arrays, "shards": shards, "hotcoco": by_hotcoco, "vernier": by_vernier,
    "faster-coco-eval": by_faster_coco_eval, "lvis": by_lvis, "mmdet": by_mmdet}


def measure(peer: str, folder: Path, iou_type: str) -> dict[str, Any]:
    """In this process: seconds, CPU seconds, peak memory in MB, that before the clock started, AP."""
    task = PEERS[peer](folder, iou_type)
    before, cpu, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time(), time.perf_counter()
    ap = task()
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu, "before": before / 1024,
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "AP": ap}


def child(*arguments: str) -> str | None:
    """The last line of what this program says in a process of its own; None if it lacks a library."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    if done.returncode and "ModuleNotFoundError" in done.stderr:
        return None
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout.strip().rpartition("\n")[2]


def compare(folder: Path, images: int, iou_types: list[str], peers: list[str]) -> None:
    if not (folder / "segm.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        child("--prepare", str(images), "--folder", str(folder))
    for iou_type in iou_types:
        print(f"\n{images} images, {iou_type}; ratios are to {peers[0]}:\n")
        print("| | s | CPU s | peak MB | before | AP | CPU, ratio | peak, ratio |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        first: dict[str, Any] = {}
        for peer in peers:
            line = child("--measure", peer, "--folder", str(folder), "--types", iou_type)
            if line is None:
                print(f"| {peer} | not installed | | | | | | |", flush=True)
                continue
            took = json.loads(line)
            first = first or took
            print(f"| {peer} | {took['seconds']:.2f} | {took['cpu']:.2f} | {took['peak']:.0f} | {took['before']:.0f} | "
                  f"{took['AP']:.6f} | {took['cpu'] / first['cpu']:.2f} | {took['peak'] / first['peak']:.2f} |",
                  flush=True)


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--images", default="500", help="how many, several with commas (default: 500)")
    parser.add_argument("--types", default="bbox,segm", help="kinds of overlap (default: bbox,segm)")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"any of {', '.join(PEERS)} (default: all)")
    parser.add_argument("--folder", type=Path, help="where the data stay for the next run (default: a temporary one)")
    parser.add_argument("--prepare", type=int, metavar="N", help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=PEERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.prepare:
        prepare(args.folder, args.prepare)
    elif args.measure:
        print("\n" + json.dumps(measure(args.measure, args.folder, args.types)))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            for images in map(int, args.images.split(",")):
                folder = (args.folder or Path(temporary)) / f"{images}"
                compare(folder, images, args.types.split(","), args.peers.split(","))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
