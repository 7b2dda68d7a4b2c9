"""Data roots for the tests of packs: files, zip files, annotation files, and the verb as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from ecm_cluster import stage
from ecm_cluster.console import cli

ZIPPED = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}


def call(*arguments: object) -> int:
    return cli.run(stage.main, [str(a) for a in arguments])


def python(*arguments: object, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "ecm_cluster.stage", *map(str, arguments)], capture_output=True,
                          text=True, env={**os.environ, **env}, check=False)


def put(root: Path, content: Mapping[str, bytes]) -> None:
    for name, data in content.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def put_zip(path: Path, content: Mapping[str, bytes], how: str = "stored") -> None:
    with zipfile.ZipFile(path, "w", ZIPPED[how]) as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name), data, ZIPPED[how])


def lvis(names: Iterable[str], boxes: bool = True) -> bytes:
    """An annotation file in the format of LVIS v1 that names images; without ``boxes`` it holds captions."""
    images = [{"id": i, "coco_url": f"http://images.cocodataset.org/{name}", "height": 8, "width": 8,
               "neg_category_ids": [], "not_exhaustive_category_ids": []} for i, name in enumerate(names, 1)]
    box = {"category_id": 1, "bbox": [1, 1, 4, 4], "area": 16, "segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]]}
    annotations = [{"id": i["id"], "image_id": i["id"], **(box if boxes else {"caption": "a"})} for i in images]
    categories = [{"id": 1, "name": "a", "frequency": "r", "image_count": len(images), "synset": "a.n.01",
                   "instance_count": len(images), "synonyms": ["a"], "def": "a"}]
    content = {"images": images, "annotations": annotations, **({"categories": categories} if boxes else {})}
    return json.dumps(content).encode()


def small_root(root: Path, train: int = 12, val: int = 5) -> dict[str, bytes]:
    """Write a data root of small images; returns its files by name."""
    images = {f"{folder}/{i:012d}.jpg": f"{folder} {i}".encode() * (7 * i)
              for folder, count in (("train2017", train), ("val2017", val)) for i in range(count)}
    named = {split: [n for n in images if n.startswith(split)] for split in ("train", "val")}
    content = {**images, "annotations/lvis_v1_train.json": lvis(named["train"]),
               "annotations/lvis_v1_val.json": lvis(named["val"])}
    put(root, content)
    return content
