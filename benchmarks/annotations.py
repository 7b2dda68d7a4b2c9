"""Annotations from columns against mmdet's datasets from the JSON file: time to ready, memory, time of an item.

    python benchmarks/annotations.py [--images 10017] [--annotations 127000] [--classes 1203] [--processes 8]
                                     [--repeats 3] [--seed 0]

A file of LVIS's shape is made in a temporary folder: classes by Zipf's law, lognormal numbers of polygon points,
coordinates of two decimals. Ready means that ``LVISV1Dataset`` with mmdet's filter, inside ``ClassBalancedDataset``,
has been built in a process that has imported mmdet. Memory is what building and then reading every image added: of
one process, its private pages; of several at once, the sum of their shares (PSS), so pages they share count once.
An item is one ``get_ann_info``; both datasets take turns in one process, which also compares all they give.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout needs no install

KINDS = ("mmdet", "columns")


def make(path: Path, images: int, boxes: int, classes: int, seed: int) -> None:
    """Write an annotation file with ``boxes`` annotations on ``images`` images."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, classes + 1)
    category = rng.permutation(classes)[rng.choice(classes, boxes, p=share / share.sum())] + 1
    sizes = rng.choice([(640, 480), (480, 640), (640, 427), (427, 640), (500, 375)], images)
    image = np.sort(rng.integers(0, images, boxes))
    points = np.clip(rng.lognormal(3.4, 0.9, boxes), 3, 600).astype(int)
    with open(path, "w", encoding="utf-8") as handle:
        handle.write('{"info": {}, "annotations": [')
        for i in range(boxes):
            outline = np.cumsum(rng.normal(0, 6, (points[i], 2)), axis=0) + rng.uniform(60, 360, 2)
            outline = outline.clip(0, sizes[image[i]]).round(2)
            low, high = outline.min(0), outline.max(0) + 1
            one = {"area": round(float((high - low).prod()) * 0.6, 2), "id": i + 1, "image_id": int(image[i]) * 7 + 3,
                   "segmentation": [outline.ravel().tolist()], "category_id": int(category[i]),
                   "bbox": [*low.tolist(), *(high - low).round(2).tolist()]}
            handle.write((", " if i else "") + json.dumps(one))
        handle.write('], "images": ')
        json.dump([{"id": i * 7 + 3, "width": int(w), "height": int(h), "license": 1,
                    "date_captured": "2013-11-14 17:02:52", "flickr_url": f"http://farm.example/{i:012d}_z.jpg",
                    "coco_url": f"http://images.cocodataset.org/train2017/{i:012d}.jpg",
                    "neg_category_ids": rng.integers(1, classes + 1, 6).tolist(), "not_exhaustive_category_ids": []}
                   for i, (w, h) in enumerate(sizes)], handle)
        listed = [{"id": i + 1, "name": f"class {i}", "synonyms": [], "def": "", "frequency": "c"}
                  for i in range(classes)]
        handle.write(f', "categories": {json.dumps(listed)}}}')


def memory(field: str) -> float:
    """Megabytes of this process by a field of the kernel's summary, or the sum of those that begin with it."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def build(kind: str, ann_file: str, classes: int) -> Any:
    """The class-balanced training set."""
    from mmdet.datasets import build_dataset

    from mmdet_ext.data import annotations

    annotations.use({ann_file: f"{ann_file}.columns"} if kind == "columns" else {})
    names = annotations.SUBSTITUTES if kind == "columns" else {}
    inner = {"type": "LVISV1Dataset", "ann_file": ann_file, "pipeline": [], "classes": list(map(str, range(classes)))}
    inner["type"] = names.get("LVISV1Dataset", "LVISV1Dataset")
    return build_dataset({"type": names.get("ClassBalancedDataset", "ClassBalancedDataset"), "oversample_thr": 1e-3,
                          "dataset": inner})


def child(kind: str, ann_file: str, classes: int) -> None:
    """One process: build, read everything, say ready, and measure on request."""
    import mmdet_ext.register  # noqa: F401

    before = memory("Pss:"), memory("Private_")
    cpu, wall = time.process_time(), time.perf_counter()
    dataset = build(kind, ann_file, classes).dataset
    took = time.process_time() - cpu, time.perf_counter() - wall
    for i in range(len(dataset)):
        dataset.get_ann_info(i)
    print("ready", flush=True)
    sys.stdin.readline()  # all others are ready as well
    print(json.dumps([*took, memory("Private_") - before[1], memory("Pss:") - before[0]]), flush=True)
    sys.stdin.readline()  # all others have measured


def at_once(kind: str, ann_file: str, classes: int, processes: int) -> list[list[float]]:
    """(CPU s, wall s, private MB, PSS MB) of each of some concurrent processes."""
    command = [sys.executable, __file__, "--child", kind, ann_file, "--classes", str(classes)]
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                                        stderr=subprocess.DEVNULL, text=True, bufsize=1))
                   for _ in range(processes)]
        answers = []
        for one in started:
            assert one.stdout is not None
            while one.stdout.readline().strip() != "ready":
                assert one.poll() is None, f"{kind}: a process failed"
        for one in started:
            assert one.stdin is not None and one.stdout is not None
            one.stdin.write("measure\n")
            answers.append(json.loads(one.stdout.readline()))
        for one in started:
            assert one.stdin is not None
            one.stdin.write("end\n")
        return answers


def equal(a: Any, b: Any) -> bool:
    """Equal in value, type of arrays and type of numbers in lists."""
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return repr(a) == repr(b)


def items(ann_file: str, classes: int, repeats: int) -> tuple[dict[str, float], bool, int]:
    """Median microseconds of an item of each kind, whether all is equal, and the number of images compared."""
    import mmdet_ext.register  # noqa: F401

    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        made = {kind: build(kind, ann_file, classes) for kind in KINDS}
    stock, ours = made["mmdet"], made["columns"]
    same = stock.repeat_indices == ours.repeat_indices and equal(stock.flag, ours.flag) \
        and stock.dataset.img_ids == ours.dataset.img_ids and equal(stock.dataset.flag, ours.dataset.flag)
    for i in range(len(stock.dataset)):
        same = same and equal(stock.dataset.get_ann_info(i), ours.dataset.get_ann_info(i)) \
            and equal(stock.dataset.data_infos[i], ours.dataset.data_infos[i]) \
            and stock.dataset.get_cat_ids(i) == ours.dataset.get_cat_ids(i)
    order = np.random.default_rng(0).permutation(len(stock.dataset)).tolist()
    took: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(repeats):
        for kind in KINDS:
            read, start = made[kind].dataset.get_ann_info, time.process_time()
            for i in order:
                read(i)
            took[kind].append(1e6 * (time.process_time() - start) / len(order))
    return {kind: statistics.median(values) for kind, values in took.items()}, same, len(order)


def show(alone: dict[str, list[list[float]]], together: dict[str, float], micro: dict[str, float]) -> None:
    table = {kind: [*(statistics.median(a[k] for a in alone[kind]) for k in (0, 1, 2)), together[kind], micro[kind]]
             for kind in KINDS}
    names = ("ready, CPU s", "ready, wall s", "private MB", "MB of all", "item, µs")
    print(f"{'':<10}" + "".join(f"{name:>15}" for name in names))
    for kind in KINDS:
        print(f"{kind:<10}" + "".join(f"{value:>15.4g}" for value in table[kind]))
    print(f"{'ratio':<10}" + "".join(f"{a / b:>15.1f}" for a, b in zip(table["mmdet"], table["columns"])))


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--images", type=int, default=10_017)
    parser.add_argument("--annotations", type=int, default=127_000)
    parser.add_argument("--classes", type=int, default=1203)
    parser.add_argument("--processes", type=int, default=8, help="processes at once (default: 8)")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each (default: 3)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child[0], args.child[1], args.classes)
        return 0
    from mmdet_ext.data import annotations

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lvis.json"
        make(path, args.images, args.annotations, args.classes, args.seed)
        start = time.process_time()
        with open(f"{path}.columns", "wb") as handle:
            annotations.write(path, handle)
            os.fsync(handle.fileno())  # pages that are not written yet would count as private
        print(f"{args.images} images, {args.annotations} annotations, {args.classes} classes: JSON "
              f"{path.stat().st_size / 2**20:.0f} MB, columns {os.path.getsize(f'{path}.columns') / 2**20:.0f} MB, "
              f"made once in {time.process_time() - start:.1f} s CPU")
        alone = {kind: [] for kind in KINDS}  # type: dict[str, list[list[float]]]
        for _ in range(args.repeats):
            for kind in KINDS:
                alone[kind] += at_once(kind, str(path), args.classes, 1)
        together = {kind: sum(a[3] for a in at_once(kind, str(path), args.classes, args.processes)) for kind in KINDS}
        micro, same, images = items(str(path), args.classes, args.repeats)
    show(alone, together, micro)
    print(f"boxes, labels, masks, records, categories, order, flags and repeats of {images} images: "
          f"{'identical' if same else 'DIFFERENT'}")
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main())
