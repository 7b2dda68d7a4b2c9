"""Shared storage imitated by a library that adds latency (``slowfs.c``), and a data root to put on it."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout needs no install

from ecm_cluster.base import files

ANNOTATIONS = "annotations/lvis_v1_train.json"
HEAD, TAIL = b"\xff\xd8\xff\xe0\0\x10JFIF\0", b"\xff\xd9"  # of a JPEG file


def build(folder: Path) -> Path:
    """Compile the library into a folder."""
    library = folder / "slowfs.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, Path(__file__).with_name("slowfs.c"), "-ldl"],
                   check=True)
    return library


def variables(library: Path, folder: Path, us: int) -> dict[str, str]:
    """The environment of a process for which every round trip to a folder takes so many microseconds."""
    return {"LD_PRELOAD": str(library), "SLOWFS_FOLDER": str(folder), "SLOWFS_US": str(us)}


def make(root: Path, images: int, mean: float, seed: int) -> int:
    """A data root of ``images`` files of ``mean`` kB on average; returns bytes of images in all."""
    draw = random.Random(seed)
    sizes = [min(8.0, draw.lognormvariate(0, 0.5)) for _ in range(images)]
    scale = 1000 * mean * images / sum(sizes)
    (root / "train2017").mkdir(parents=True)
    total = 0
    for number, size in enumerate(sizes):
        middle = max(1, int(size * scale) - len(HEAD) - len(TAIL))
        data = HEAD + draw.getrandbits(8 * middle).to_bytes(middle, "little") + TAIL
        (root / "train2017" / f"{number:012d}.jpg").write_bytes(data)
        total += len(data)
    (root / "annotations").mkdir()
    files.write_json(root / ANNOTATIONS, {
        "images": [{"id": n, "height": 480, "width": 640, "not_exhaustive_category_ids": [], "neg_category_ids": [],
                    "coco_url": f"http://images.cocodataset.org/train2017/{n:012d}.jpg"} for n in range(images)],
        "annotations": [{"id": n + 1, "image_id": n, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81,
                         "segmentation": [[1, 1, 10, 1, 10, 10]]} for n in range(images)],
        "categories": [{"id": 1, "name": "thing", "synonyms": [], "def": "", "frequency": "f"}]})
    return total
