"""Detections on disk: one ``.npz`` shard of columns for each rank, and how they are joined again.

A shard says which images of the data set it covers, those without a detection too, so a reader can distinguish
"nothing found" from "not processed". Shards may cover any images in any order, as long as together they
cover each image once; they are read back in the order of the data set, however the work was divided.

A writer holds its shard in memory (some 60 bytes a detection and the encoded mask) until it is complete.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import files
from ..base.errors import UserError
from .detections import Detections, Masks, concatenate

if TYPE_CHECKING:
    import numpy as np

FORMAT = 1
COLUMNS = ("images", "image_id", "category_id", "score", "bbox")
REMEDY = "run inference for this evaluation again"


class DetectionWriter:
    """Collects the detections of one rank, image by image, into one shard of a data set of ``dataset_size`` images."""

    def __init__(self, dataset_size: int) -> None:
        self.dataset_size = dataset_size
        self._positions: list[int] = []
        self._parts: list[Detections] = []

    def add(self, position: int, found: Detections) -> None:
        """Add the detections of one image, whose index in the data set is ``position``."""
        self._positions.append(position)
        self._parts.append(found)

    def write(self, path: str | Path) -> Path:
        """Write everything that was added to ``path``, atomically."""
        return write_shard(path, concatenate(self._parts), self._positions, self.dataset_size)


def write_shard(path: str | Path, found: Detections, positions: Sequence[int], dataset_size: int) -> Path:
    """Write a shard, atomically.

    Args:
        positions: (M,) index in the data set of each of ``found.images``.
        dataset_size: number of images that all shards together cover.
    """
    import numpy as np

    if len(positions) != len(found.images):
        raise ValueError(f"{len(positions)} positions for {len(found.images)} images")
    columns: dict[str, Any] = {name: getattr(found, name) for name in COLUMNS}
    columns.update(format=FORMAT, dataset_size=dataset_size, positions=np.asarray(positions, np.int64))
    if found.masks is not None:
        columns.update(mask_counts=found.masks.counts, mask_span=found.masks.span, mask_size=found.masks.size)
        if found.masks.score is not None:
            columns["mask_score"] = found.masks.score
    with files.replacing(path) as handle:
        # not compressed: run lengths are compressed already and zlib would take longer than the disk
        np.savez(handle, **columns)
    return Path(path)


def read_shards(paths: Sequence[str | Path], expected: Sequence[int] | None = None) -> Detections:
    """Join shards into one set of detections in the order of the data set.

    Args:
        expected: ids of the images that have to be covered; None leaves it at what the shards say themselves.

    Raises:
        UserError: a shard is missing, damaged or of other data, or an image is covered twice or never.
    """
    import numpy as np

    if not paths:
        raise UserError(f"no shard of detections was given; {REMEDY}")
    shards = [_read(Path(path)) for path in paths]
    sizes = {int(columns["dataset_size"]) for columns in shards}
    if len(sizes) != 1:
        raise UserError(f"shards are of different data sets, with {sorted(sizes)} images; {REMEDY}")
    positions = np.concatenate([columns["positions"] for columns in shards])
    found = concatenate([_detections(columns) for columns in shards])
    _check_coverage(positions, found.images, sizes.pop(), expected)
    images = found.images[np.argsort(positions)]
    by_id = np.argsort(images)
    at = np.searchsorted(images, found.image_id, sorter=by_id)
    if not np.array_equal(images[by_id[at[at < len(images)]]], found.image_id):
        raise UserError(f"a shard has detections on an image that it does not cover; {REMEDY}")
    # stable: in an image the model's own order decides between equal scores
    return replace(found, images=images).take(np.argsort(by_id[at], kind="stable"))


def read_one(path: Path) -> tuple[Detections, int]:
    """One shard alone, and the number of images that all shards together cover."""
    columns = _read(path)
    return _detections(columns), int(columns["dataset_size"])


def _read(path: Path) -> dict[str, np.ndarray]:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            columns = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise UserError(f"{path}: this shard of detections is missing; {REMEDY}") from None
    # what numpy and zipfile raise for truncated, damaged or unrelated files
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, AttributeError) as error:
        raise UserError(f"{path}: not a readable shard of detections ({error}); {REMEDY}") from error
    if int(columns.get("format", 0)) != FORMAT:
        raise UserError(f"{path}: not a shard of detections of format {FORMAT}; {REMEDY}")
    return columns


def _detections(columns: dict[str, np.ndarray]) -> Detections:
    masks = None if "mask_counts" not in columns else Masks(
        columns["mask_counts"], columns["mask_span"], columns["mask_size"], columns.get("mask_score"))
    return Detections(**{name: columns[name] for name in COLUMNS}, masks=masks)


def _check_coverage(positions: np.ndarray, images: np.ndarray, size: int,
                    expected: Sequence[int] | None) -> None:
    import numpy as np

    times = np.bincount(positions, minlength=size)
    if len(times) > size:
        raise UserError(f"a shard covers image number {len(times) - 1} of a data set of {size}; {REMEDY}")
    if (times > 1).any():
        at = int(np.flatnonzero(times > 1)[0])
        image = int(images[np.flatnonzero(positions == at)[0]])
        raise UserError(f"{int((times > 1).sum())} images are covered by two shards (the first is image "
                        f"{image}); use each shard of one evaluation once")
    if (times == 0).any():
        raise UserError(f"{int((times == 0).sum())} of {size} images are covered by no shard (the first is "
                        f"number {int(np.flatnonzero(times == 0)[0])} of the data set); {REMEDY}")
    if len(np.unique(images)) < len(images):
        raise UserError(f"the data set holds an image id twice; {REMEDY} with unique ids")
    if expected is not None and set(map(int, expected)) != set(images.tolist()):
        missing, other = set(map(int, expected)) - set(images.tolist()), set(images.tolist()) - set(expected)
        first = f"the first is {min(missing | other)}"
        raise UserError(f"the shards lack {len(missing)} of the expected images and hold {len(other)} others "
                        f"({first}); {REMEDY} on this annotation file")
