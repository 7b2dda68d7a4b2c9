"""Detections in memory as columns, one numpy array a field (on disk: :mod:`.detection_files`).

Scores and boxes are kept in float64. mmdet's models answer in float32, but its way to lvis-api turns every
number into a double, subtracts corners in double precision, and JSON gives doubles back exactly; the float64
columns therefore hold the very numbers that lvis-api would have read from the JSON file.

numpy is imported inside the functions: this module has to import on a login node without it.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..base.errors import UserError, one_of

if TYPE_CHECKING:
    import numpy as np

IOU_TYPES = ("bbox", "segm")


@dataclass(frozen=True, eq=False)
class Masks:
    """COCO run-length encodings of N masks.

    Attributes:
        counts: (B,) uint8, the compressed counts of all masks, one after another.
        span: (N, 2) int64, begin and end of each mask in ``counts``.
        size: (N, 2) int32, height and width in pixels.
        score: (N,) float64 where the model scores masks apart from boxes (mask scoring), else None.
    """

    counts: np.ndarray
    span: np.ndarray
    size: np.ndarray
    score: np.ndarray | None = None

    def take(self, index: np.ndarray | slice) -> Masks:
        """The masks at ``index``; they share ``counts``, which can be gigabytes."""
        score = None if self.score is None else self.score[index]
        return Masks(self.counts, self.span[index], self.size[index], score)

    def rle(self, row: int) -> dict[str, Any]:
        """Mask ``row`` as pycocotools has it: ``{"size": [h, w], "counts": str}``."""
        begin, end = self.span[row]
        return {"size": self.size[row].tolist(), "counts": self.counts[begin:end].tobytes().decode("ascii")}


@dataclass(frozen=True, eq=False)
class Detections:
    """N detections on M images, in the order of the data set and, in an image, of the model's answer.

    Attributes:
        images: (M,) int64, ids of all images that inference ran on.
        image_id: (N,) int64.
        category_id: (N,) int64, ids of the annotation file (not labels).
        score: (N,) float64.
        bbox: (N, 4) float64, x, y, width, height in pixels of the original image.
        masks: N masks, or None for a model that gives boxes only.
    """

    images: np.ndarray
    image_id: np.ndarray
    category_id: np.ndarray
    score: np.ndarray
    bbox: np.ndarray
    masks: Masks | None = None

    def __len__(self) -> int:
        return len(self.image_id)

    @property
    def iou_types(self) -> tuple[str, ...]:
        """The kinds of overlap that these detections can be scored by."""
        return ("bbox",) if self.masks is None else IOU_TYPES

    def scores(self, iou_type: str) -> np.ndarray:
        """(N,) what ranks the detections: the score or, for ``segm`` of a mask-scoring model, the mask's."""
        if iou_type not in IOU_TYPES:
            raise one_of("iou_type", iou_type, IOU_TYPES)
        if iou_type == "bbox":
            return self.score
        if self.masks is None:
            raise UserError("iou_type segm: these detections have no masks; ask for bbox alone")
        return self.score if self.masks.score is None else self.masks.score

    def take(self, index: np.ndarray | slice) -> Detections:
        """The detections at ``index`` (positions, booleans or a slice); ``images`` stays as it is."""
        return Detections(self.images, self.image_id[index], self.category_id[index], self.score[index],
                          self.bbox[index], None if self.masks is None else self.masks.take(index))

    def to_lvis_results(self, iou_type: str) -> list[dict[str, Any]]:
        """The list that lvis-api and pycocotools take, equal to what mmdet's ``results2json`` writes.

        Results for ``segm`` carry the box too, as mmdet's do; lvis-api then takes the area that sorts a mask
        into small, medium or large from the box.
        """
        columns = zip(self.image_id.tolist(), self.bbox.tolist(), self.scores(iou_type).tolist(),
                      self.category_id.tolist())
        names = ("image_id", "bbox", "score", "category_id")
        results: list[dict[str, Any]] = [dict(zip(names, row)) for row in columns]
        if iou_type == "segm" and self.masks is not None:
            for row, result in enumerate(results):
                result["segmentation"] = self.masks.rle(row)
        return results


def of_image(image_id: int, category_ids: Sequence[int] | np.ndarray, scores: Sequence[float] | np.ndarray,
             bbox: Sequence[Sequence[float]] | np.ndarray, rles: Sequence[dict[str, Any]] | None = None,
             mask_scores: Sequence[float] | np.ndarray | None = None) -> Detections:
    """The n detections of one image.

    Args:
        category_ids: (n,) ids in the annotation file.
        bbox: (n, 4) x, y, width, height in pixels.
        rles: n encodings of pycocotools from a model with masks, an empty list where it found nothing; None
            from a model without masks.
        mask_scores: (n,) where masks have scores of their own.
    """
    import numpy as np

    n = len(category_ids)
    masks = None
    if rles is not None:
        counts = [r["counts"].encode() if isinstance(r["counts"], str) else r["counts"] for r in rles]
        ends = np.cumsum([0] + [len(c) for c in counts], dtype=np.int64)
        masks = Masks(np.frombuffer(b"".join(counts), np.uint8), np.stack([ends[:-1], ends[1:]], axis=1),
                      np.array([r["size"] for r in rles], np.int32).reshape(-1, 2),
                      None if mask_scores is None else np.asarray(mask_scores, np.float64))
    found = Detections(np.array([image_id], np.int64), np.full(n, image_id, np.int64),
                       np.asarray(category_ids, np.int64), np.asarray(scores, np.float64),
                       np.asarray(bbox, np.float64).reshape(-1, 4), masks)
    lengths = [len(x) for x in (found.score, found.bbox, *([] if masks is None else [masks.span]))]
    if any(length != n for length in lengths):
        raise ValueError(f"image {image_id}: {n} category ids, but scores, boxes and masks number {lengths}")
    return found


def concatenate(parts: Sequence[Detections]) -> Detections:
    """All detections of ``parts``, in their order.

    A part without detections goes with any other; otherwise all have masks or none has.
    """
    import numpy as np

    def joined(columns: Iterable[np.ndarray], dtype: str, width: tuple[int, ...] = ()) -> np.ndarray:
        return np.concatenate([np.zeros((0, *width), dtype), *columns])

    filled = [p for p in parts if len(p)]
    masked = [p.masks for p in filled if p.masks is not None]
    scores = [m.score for m in masked if m.score is not None]
    if len(masked) not in (0, len(filled)) or len(scores) not in (0, len(masked)):
        raise ValueError("some detections have masks (or mask scores) and some have none: not from one model")
    masks = None
    if any(p.masks is not None for p in parts):
        starts = np.cumsum([0] + [len(m.counts) for m in masked])
        masks = Masks(counts=joined((m.counts for m in masked), "uint8"),
                      span=joined((m.span + start for m, start in zip(masked, starts)), "int64", (2,)),
                      size=joined((m.size for m in masked), "int32", (2,)),
                      score=joined(scores, "float64") if scores else None)
    return Detections(images=joined((p.images for p in parts), "int64"),
                      image_id=joined((p.image_id for p in filled), "int64"),
                      category_id=joined((p.category_id for p in filled), "int64"),
                      score=joined((p.score for p in filled), "float64"),
                      bbox=joined((p.bbox for p in filled), "float64", (4,)), masks=masks)


def strongest(image_id: np.ndarray, scores: np.ndarray, max_dets: int) -> np.ndarray:
    """(N,) bool, True for the ``max_dets`` highest scores of each image; of equal scores the first ones are kept.

    This is lvis-api's limit, over all categories of an image.
    """
    import numpy as np

    sizes = np.unique(image_id, return_counts=True)[1]
    keep = np.ones(len(image_id), bool)
    if (sizes > max_dets).any():
        order = np.lexsort((-scores, image_id))
        ends = np.cumsum(sizes)
        keep[order] = np.arange(len(order)) - np.repeat(ends - sizes, sizes) < max_dets
    return keep


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """For a million small objects that are all in use: the collector would traverse them again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
