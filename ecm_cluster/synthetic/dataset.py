"""A small synthetic dataset in the LVIS v1 format, with learnable classes and a Zipf distribution.

Covered: the files of the published layout with all fields of LVIS v1, its federated lists (verified negatives, and
classes not exhaustively annotated, of which one drawn object really lacks its annotation), and its frequency groups by
number of training images. Not covered: crowd regions (LVIS has none) and images shared between the two splits.

The same :class:`Spec` gives the same bytes with the same versions of numpy, OpenCV and pycocotools: every image has its
own generator, seeded by (seed, split, image), so it does not depend on other images.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mmdet_ext.data import image_names

from ..base.errors import UserError
from ..base.files import Digesting, write_bytes
from . import drawing
from .long_tail import CLASSES_PER_IMAGE, MOST_CLASSES, assign, frequency, image_counts

SPLITS = ("train", "val")
FIRST_ID = {"train": 1, "val": 2_500_001}  # ids of the splits do not overlap: at most 400,000 images of 6 objects
MOST_OBJECTS = 6  # per image
NEGATIVES = 4  # verified absent classes per image
JPEG_QUALITY = 92  # part of a dataset's identity: another value gives other files for the same seed


@dataclass(frozen=True)
class Spec:
    """The parameters of a dataset; equal ones give equal files."""

    train_images: int
    val_images: int
    classes: int
    seed: int = 0
    image_size: int = 128  # longer side, pixels; half of the images are 4:3, a quarter 3:4, a quarter square
    min_images: int | None = None  # minimum of training images per class; None: 5, or fewer if 5 do not fit

    def __post_init__(self) -> None:
        for field, least, most in (
            ("train_images", 1, 400_000), ("val_images", 1, 400_000), ("classes", 1, drawing.LOOKS),
            ("seed", 0, 2**63 - 1), ("image_size", 32, 4096), ("min_images", 1, self.train_images),
        ):
            value = getattr(self, field)
            if value is not None and not least <= value <= most:
                raise UserError(f"invalid --{field.replace('_', '-')}: {value}; expected {least} to {most}")
        if self.classes * self.least_train_images > (MOST_CLASSES - 1) * self.train_images:
            raise UserError(f"--classes {self.classes} with at least {self.least_train_images} images each do not fit "
                            f"into --train-images {self.train_images}; use at least "
                            f"{-(-self.classes * self.least_train_images // (MOST_CLASSES - 1))} images, or fewer "
                            "classes")

    @property
    def least_train_images(self) -> int:
        """Number of training images of the rarest class."""
        # at most a third of all places, so that enough are left for frequent classes
        fits = int(self.train_images * CLASSES_PER_IMAGE / 3 / self.classes)
        return max(1, min(5, fits)) if self.min_images is None else self.min_images


def _split_counts(spec: Spec, split: str, order: np.ndarray) -> np.ndarray:
    """Number of images of each class in a split; ``order``: the classes by decreasing frequency."""
    counts = np.zeros(spec.classes, dtype=int)
    if split == "train":
        counts[order] = image_counts(spec.classes, spec.train_images, spec.least_train_images)
        return counts
    fits = min(spec.classes, (MOST_CLASSES - 1) * spec.val_images)
    # if there are too few images for all classes: every k-th one, so that all frequency groups occur
    kept = order[np.linspace(0, spec.classes - 1, fits).astype(int)]
    least = max(1, min(3, int(spec.val_images * CLASSES_PER_IMAGE / 2 / fits)))
    counts[kept] = image_counts(fits, spec.val_images, least)
    return counts


def _size(rng: np.random.Generator, longer: int) -> tuple[int, int]:
    """Width and height: half of the images are landscape, the others portrait or square."""
    shorter = longer * 3 // 4
    return ((longer, shorter), (longer, shorter), (shorter, longer), (longer, longer))[rng.integers(4)]


def _objects(rng: np.random.Generator, classes: list[int]) -> list[int]:
    """The class of each object in an image: every class once, some several times, at most ``MOST_OBJECTS``."""
    again = [c for c in classes for _ in range(int(rng.geometric(0.65)) - 1)]
    rng.shuffle(again)
    return classes + again[: MOST_OBJECTS - len(classes)]


def make_image(spec: Spec, split: str, index: int, classes: list[int],
               looks: list[drawing.Look]) -> tuple[np.ndarray, dict[str, Any], list[dict[str, Any]]]:
    """One image with its records; annotation ids are assigned by the caller.

    Args:
        classes: Indices into ``looks`` of the classes to show; category id = index + 1.

    Returns:
        The image, uint8 RGB (height, width, 3), and its entries in ``images`` and in ``annotations``.
    """
    rng = np.random.default_rng([spec.seed, SPLITS.index(split), index])
    width, height = _size(rng, spec.image_size)
    objects = _objects(rng, classes)
    image, instances = drawing.draw(rng, width, height, [looks[c] for c in objects])

    # in 5 % of the cases where a class occurs more than once, its last object is not annotated
    incomplete = [c for c in classes if objects.count(c) > 1 and rng.random() < 0.05]
    unmarked = {len(objects) - 1 - objects[::-1].index(c) for c in incomplete}
    absent = np.setdiff1d(np.arange(len(looks)), objects)
    negative = np.sort(rng.choice(absent, min(NEGATIVES, len(absent)), replace=False))

    image_id = FIRST_ID[split] + index
    record = {
        "id": image_id,
        "height": height,
        "width": width,
        "license": 1,
        "date_captured": "2013-11-14 17:02:52",
        "flickr_url": "",
        "coco_url": f"{image_names.SERVER}{split}2017/{image_id:012d}.jpg",
        "neg_category_ids": [int(c) + 1 for c in negative],
        "not_exhaustive_category_ids": sorted(c + 1 for c in incomplete),
    }
    annotations = [
        {
            "id": 0,
            "image_id": image_id,
            "category_id": c + 1,
            "segmentation": instance.segmentation,
            "area": instance.area,
            "bbox": instance.bbox,
        }
        for i, (c, instance) in enumerate(zip(objects, instances))
        if i not in unmarked
    ]
    return image, record, annotations


def categories(looks: list[drawing.Look], train: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ``categories`` of both files, counted over the training annotations, as in LVIS."""
    instances = np.bincount([a["category_id"] for a in train], minlength=len(looks) + 1)
    images: list[set[int]] = [set() for _ in range(len(looks) + 1)]
    for a in train:
        images[a["category_id"]].add(a["image_id"])
    return [
        {
            "id": k,
            "name": look.name,
            "synonyms": [look.name],
            "synset": f"{look.name}.n.01",
            "def": f"a {look.colour} {look.shape} whose surface is {look.texture}",
            "frequency": frequency(len(images[k])),
            "image_count": len(images[k]),
            "instance_count": int(instances[k]),
        }
        for k, look in enumerate(looks, 1)
    ]


def write(folder: Path, spec: Spec, advance: Callable[[int], None] = lambda count: None) -> dict[str, Any]:
    """Write the dataset to the empty directory ``folder``.

    Args:
        advance: Called after each image, with 1.

    Returns:
        The manifest (not written here): arguments, sizes, and the digest of everything written.
    """
    written = Digesting()
    rng = np.random.default_rng([spec.seed, len(SPLITS)])
    # numbered in the order of their names, as in LVIS, so that ids are independent of the frequency
    looks = sorted((drawing.look(k) for k in range(spec.classes)), key=lambda look: look.name)
    order = rng.permutation(spec.classes)
    (folder / "annotations").mkdir(parents=True)
    manifest: dict[str, Any] = {"arguments": asdict(spec), "files": {}}
    shared: list[dict[str, Any]] = []
    for split in SPLITS:
        total = spec.train_images if split == "train" else spec.val_images
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        size = 0
        (folder / f"{split}2017").mkdir()
        for index, classes in enumerate(assign(rng, _split_counts(spec, split, order), total)):
            pixels, record, marked = make_image(spec, split, index, classes, looks)
            jpeg = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
            # without an fsync per image: the manifest has the sizes, so `intact` detects truncated ones
            (folder / image_names.of_lvis_v1(record)).write_bytes(jpeg)
            written.write(jpeg)
            size += len(jpeg)
            for a in marked:
                a["id"] = FIRST_ID[split] + len(annotations)
                annotations.append(a)
            images.append(record)
            advance(1)
        shared = shared or categories(looks, annotations)
        text = _annotation_file(split, annotations, images, shared)
        write_bytes(folder / "annotations" / f"lvis_v1_{split}.json", text)
        written.write(text)
        manifest["files"][f"{split}2017"] = {"images": total, "bytes": size}
        manifest["files"][f"annotations/lvis_v1_{split}.json"] = {"bytes": len(text)}
        manifest[split] = {"images": total, "annotations": len(annotations)}
        manifest[split]["classes"] = len({a["category_id"] for a in annotations})
    manifest["frequency"] = {f: sum(c["frequency"] == f for c in shared) for f in "rcf"}
    manifest["sha256"] = written.digest.partition(":")[2]
    return manifest


def _annotation_file(split: str, annotations: list, images: list, categories: list) -> bytes:
    """The JSON file, with keys in the order of the published ones."""
    info = {
        "description": f"Synthetic data in the LVIS v1 format ({split})", "url": "", "version": "1.0",
        "year": 2020, "contributor": "ecm-cluster", "date_created": "2020-01-01 00:00:00.000000",
    }  # fmt: skip
    licence = {"id": 1, "name": "Apache License 2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}
    top = {
        "info": info, "annotations": annotations, "images": images, "licenses": [licence],
        "categories": categories,
    }  # fmt: skip
    return json.dumps(top).encode()


def intact(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether every file in the manifest exists with its size."""
    for name, expected in manifest["files"].items():
        path = folder / name
        if name.endswith(".json"):
            if not path.is_file() or path.stat().st_size != expected["bytes"]:
                return False
        else:
            sizes = [p.stat().st_size for p in path.glob("*.jpg")]
            if (len(sizes), sum(sizes)) != (expected.get("images"), expected["bytes"]):
                return False
    return True
