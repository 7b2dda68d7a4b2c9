"""hotcoco as the scorer: lvis-api's arrays to the last bit, from columns, in Rust.

hotcoco and vernier both give these arrays on ordinary files, at much the same speed (benchmarks/README.md). hotcoco was
taken because it takes detections *and* federated ground truth as arrays, where vernier has the federated lists from
JSON text only; because it scores whatever lvis-api scores, where vernier refuses a category that is both listed as
missing and present or not annotated throughout; and because it needs numpy alone, where vernier needs pyarrow. Where it
differs from lvis-api (tests/lvis/test_fast_scoring.py has the cases) the input is put so that it cannot show:

- objects and detections without area are left out, as lvis-api leaves them out without a word;
- the limit of detections an image is applied before that, over all categories, the first of equal scores stay;
- detections in categories that are known neither to be on the image nor to be missing from it are left out, as
  in lvis-api, and masks go in only where there is an object to compare them with;
- an object with ``ignore`` has an area beyond all ranges: hotcoco knows ``iscrowd`` alone, lvis-api not at all;
- detections go in as rows with a box, whose area then counts for ``segm`` too, as in lvis-api;
- polygons that pycocotools reads in a way of its own are encoded by pycocotools;
- ids are positions in ascending order, so none is too large for a column of doubles;
- an object with the id 0 takes its detection, which still counts as wrong; its category is summed in
  :mod:`.matches`.

Imported by :mod:`.scoring` when it scores, since it needs hotcoco and numpy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import hotcoco
import numpy as np

from ..base.errors import UserError
from . import metrics
from .detections import Detections, no_collection, strongest
from .matches import Accumulator, Matches

BEYOND = 4 * metrics.AREA_RANGES[0][1]  # an area in no range
NO_MASK = {"size": [1, 1], "counts": b"1"}  # where nobody looks at it
CHUNK = 250  # images whose matches are in Python objects at a time: about 100 MB


class GroundTruth:
    """Objects of an LVIS document as columns, images and categories by position in ascending order of ids.

    Attributes:
        images: M image ids, ascending.
        categories: K category ids, ascending.
        image, category: (G,) position of each object that lvis-api looks at.
        area: (G,) pixels, ``BEYOND`` where an object is to be ignored.
        zero: (G,) bool, the object's id is 0.
        present: sorted codes image * K + category of pairs that hold an object.
        absent: the same of pairs known to hold none, and of those
        unfinished: pairs where not every object is annotated.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self.images = np.sort(np.array([image["id"] for image in document["images"]], np.int64))
        self.categories = np.sort(np.array([c["id"] for c in document["categories"]], np.int64))
        self.records = sorted(document["images"], key=lambda image: image["id"])
        annotations = [a for a in document["annotations"] if 0 < a["area"] < np.inf]
        image = positions(self.images, [a["image_id"] for a in annotations])
        category = positions(self.categories, [a["category_id"] for a in annotations])
        known = (image >= 0) & (category >= 0)
        self.annotations = [a for a, is_known in zip(annotations, known.tolist()) if is_known]
        self.image, self.category = image[known], category[known]
        self.area = np.array([BEYOND if a.get("ignore") else a["area"] for a in self.annotations], np.float64)
        self.zero = np.array([a["id"] == 0 for a in self.annotations], bool)
        self.present = np.unique(self.code(self.image, self.category))
        self.absent = self._listed("neg_category_ids")
        self.unfinished = self._listed("not_exhaustive_category_ids")

    def code(self, image: np.ndarray, category: np.ndarray) -> np.ndarray:
        return image * len(self.categories) + category

    def _listed(self, field: str) -> np.ndarray:
        lists = [record[field] for record in self.records]
        image = np.repeat(np.arange(len(lists)), [len(ids) for ids in lists])
        category = positions(self.categories, [i for ids in lists for i in ids])
        return np.unique(self.code(image, category)[category >= 0])

    def masks(self) -> list[Any]:
        """The segmentation of each object, in a form that hotcoco and pycocotools read alike."""
        return [a["segmentation"] if _is_plain(a["segmentation"]) else _encoded(a["segmentation"], self.records[at])
                for a, at in zip(self.annotations, self.image.tolist())]

    def dataset(self, iou_type: str) -> hotcoco.COCO:
        """For hotcoco; object i has the id i + 1."""
        if iou_type == "segm" and not all("height" in r and "width" in r for r in self.records):
            raise UserError("images: height or width is missing; masks are compared on images of known size")
        images = [{"id": at, "height": r.get("height", 0), "width": r.get("width", 0), "neg_category_ids": [],
                   "not_exhaustive_category_ids": []} for at, r in enumerate(self.records)]
        for field, codes in (("neg_category_ids", self.absent), ("not_exhaustive_category_ids", self.unfinished)):
            for image, category in zip(*(part.tolist() for part in np.divmod(codes, len(self.categories)))):
                images[image][field].append(category)
        categories = [{"id": at, "name": f"{at}"} for at in range(len(self.categories))]
        boxes = np.array([a.get("bbox", (0, 0, 0, 0)) for a in self.annotations], np.float64).reshape(-1, 4)
        return hotcoco.COCO.from_arrays(
            images, categories, self.image, self.category, boxes, ids=np.arange(1, len(boxes) + 1), area=self.area,
            iscrowd=np.zeros(len(boxes), bool), segmentation=self.masks() if iou_type == "segm" else None)


@dataclass(frozen=True, eq=False)
class Admitted:
    """The n detections that count, in the order given.

    Attributes:
        rows: (n,) positions among all.
        image, category: (n,) positions in the ground truth.
        compared: (n,) bool, there is an object of the category on the image.
        area: (n,) of the box.
        score: (n,).
    """

    rows: np.ndarray
    image: np.ndarray
    category: np.ndarray
    compared: np.ndarray
    area: np.ndarray
    score: np.ndarray

    def take(self, index: np.ndarray) -> Admitted:
        return Admitted(self.rows[index], self.image[index], self.category[index], self.compared[index],
                        self.area[index], self.score[index])


def admit(truth: GroundTruth, found: Detections, iou_type: str, max_dets: int) -> Admitted:
    """What lvis-api would look at of ``found``."""
    score = found.scores(iou_type)
    area = found.bbox[:, 2] * found.bbox[:, 3]
    image, category = positions(truth.images, found.image_id), positions(truth.categories, found.category_id)
    # 1 where an object is, 2 where none is known to be; the last place is for what the document does not have
    listed = np.zeros(len(truth.images) * len(truth.categories) + 1, np.uint8)
    listed[truth.absent] = 2
    listed[truth.present] = 1
    state = listed[np.where((image >= 0) & (category >= 0), truth.code(image, category), -1)]
    rows = np.flatnonzero((state > 0) & (area > 0) & (area < np.inf) & strongest(found.image_id, score, max_dets))
    return Admitted(rows, image[rows], category[rows], state[rows] == 1, area[rows], score[rows])


def evaluate(truth: GroundTruth, found: Detections, iou_type: str, max_dets: int = 300,
             ) -> tuple[np.ndarray, np.ndarray]:
    """Precision (10, 101, K, 4) and recall (10, K, 4) as lvis-api's ``accumulate`` leaves them.

    Args:
        truth: of LVIS form.
        found: detections on its images; scores and boxes are finite.
        iou_type: ``bbox`` or ``segm``.
        max_dets: detections that count in an image.
    """
    admitted = admit(truth, found, iou_type, max_dets)
    evaluation = _evaluator(truth.dataset(iou_type), found, admitted, iou_type, max_dets)
    evaluation.evaluate()
    evaluation.accumulate()
    arrays: Any = evaluation.eval
    precision, recall = arrays["precision"][..., 0], arrays["recall"][..., 0]
    odd = np.unique(truth.category[truth.zero])
    if len(odd):
        own = Accumulator(find_matches(truth, found, iou_type, max_dets, odd.tolist()))()
        precision[:, :, odd], recall[:, odd] = own[0][:, :, odd], own[1][:, odd]
    return precision, recall


def _evaluator(dataset: hotcoco.COCO, found: Detections, admitted: Admitted, iou_type: str, max_dets: int,
               ) -> hotcoco.COCOeval:
    """Detection i of ``admitted`` has the id i + 1."""
    rows = admitted.rows
    table = np.column_stack([admitted.image, found.bbox[rows], admitted.score, admitted.category])
    with no_collection():
        masks = _masks(found, admitted) if iou_type == "segm" else None
        detected = dataset.load_res(np.ascontiguousarray(table, np.float64), segmentation=masks)
    # the limit was applied already: without this hotcoco would apply its own 300
    evaluation = hotcoco.COCOeval(dataset, detected.cap_detections_per_image(None), iou_type, lvis_style=True)
    evaluation.params.max_dets = [max_dets]
    return evaluation


def _masks(found: Detections, admitted: Admitted) -> list[Any]:
    assert found.masks is not None
    counts = np.ascontiguousarray(found.masks.counts).data
    masks = [NO_MASK] * len(admitted.rows)
    at = np.flatnonzero(admitted.compared)
    begin, end = (part.tolist() for part in found.masks.span[admitted.rows[at]].T)
    size = found.masks.size[admitted.rows[at]].astype(np.int64)
    codes, which = np.unique(size[:, 0] << 32 | size[:, 1], return_inverse=True)
    sizes = [[code >> 32, code & 0xFFFFFFFF] for code in codes.tolist()]  # a few, shared by all
    for row, b, e, k in zip(at.tolist(), begin, end, which.tolist()):
        masks[row] = {"size": sizes[k], "counts": bytes(counts[b:e])}
    return masks


def find_matches(truth: GroundTruth, found: Detections, iou_type: str, max_dets: int = 300,
                 only: Collection[int] | None = None) -> Matches:
    """What matches what, by hotcoco's records of each image and category.

    Args:
        truth, found, iou_type, max_dets: as for :func:`evaluate`.
        only: positions of the categories that are wanted, None for all.
    """
    admitted = admit(truth, found, iou_type, max_dets)
    if only is not None:
        admitted = admitted.take(np.isin(admitted.category, list(only)))
    code = truth.code(admitted.image, admitted.category)
    outside = np.stack([(admitted.area < low) | (admitted.area > high) for low, high in metrics.AREA_RANGES])
    pardoned = outside | _contains(truth.unfinished, code)  # what hits nothing is ignored
    shape = (len(outside), len(metrics.iou_thresholds()), len(code))
    matched = np.zeros(shape, bool)
    ignored = np.repeat(pardoned[:, None], shape[1], axis=1)
    compared = np.flatnonzero(admitted.compared)  # only these can hit
    evaluation = _evaluator(truth.dataset(iou_type), found, admitted.take(compared), iou_type, max_dets)
    zero = set((np.flatnonzero(truth.zero) + 1).tolist())
    for images in _chunks(np.unique(admitted.image[compared]).tolist()):
        evaluation.params.img_ids = images
        evaluation.evaluate()
        for at, record in enumerate(evaluation.eval_imgs):
            if record is not None and record["dtIds"]:
                _note(record, at % shape[0], compared, pardoned, matched, ignored, zero)
    pairs, position = np.unique(truth.code(truth.image, truth.category), return_inverse=True)
    truths = np.zeros((len(pairs), shape[0]), np.int64)
    for area, (low, high) in enumerate(metrics.AREA_RANGES):
        truths[:, area] = np.bincount(position, (truth.area >= low) & (truth.area <= high), len(pairs))
    return Matches(len(truth.images), len(truth.categories), admitted.image, admitted.category, admitted.score,
                   matched, ignored, *np.divmod(pairs, len(truth.categories)), truths)


def _note(record: dict[str, Any], area: int, compared: np.ndarray, pardoned: np.ndarray, matched: np.ndarray,
          ignored: np.ndarray, zero: set[int]) -> None:
    """One image, category and range of areas."""
    assert tuple(record["aRng"]) == metrics.AREA_RANGES[area]
    rows = compared[np.array(record["dtIds"], np.int64) - 1]
    hit, ignore = np.array(record["dtMatched"], bool), np.array(record["dtIgnore"], bool)
    for gt in zero.intersection(record["gtIds"]):  # lvis-api takes "hit the object 0" for "hit nothing"
        nothing = np.array(record["dtMatches"]) == gt
        hit &= ~nothing
        ignore |= nothing & pardoned[area, rows]
    matched[area][:, rows], ignored[area][:, rows] = hit, ignore


def positions(known: np.ndarray, ids: Sequence[int] | np.ndarray) -> np.ndarray:
    """(n,) where each of ``ids`` is in ``known``, which ascends; -1 where it is not."""
    ids = np.asarray(ids, np.int64)
    at = np.minimum(np.searchsorted(known, ids), max(len(known) - 1, 0))
    return np.where(known[at] == ids, at, -1) if len(known) else np.full(len(ids), -1)


def _contains(codes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return positions(codes, wanted) >= 0


def _chunks(items: list[int]) -> Iterator[list[int]]:
    return (items[at:at + CHUNK] for at in range(0, len(items), CHUNK))


def _is_plain(segmentation: Any) -> bool:
    """An encoding, or polygons of three points or more: what everybody reads alike."""
    return isinstance(segmentation, dict) or (
        bool(segmentation) and all(len(part) >= 6 and len(part) % 2 == 0 for part in segmentation))


def _encoded(segmentation: Any, image: dict[str, Any]) -> dict[str, Any]:
    """As lvis-api's ``ann_to_rle`` does it."""
    from pycocotools import mask as mask_utils

    try:
        return mask_utils.merge(mask_utils.frPyObjects(segmentation, image["height"], image["width"]))
    except (TypeError, ValueError, IndexError) as error:
        raise UserError(f"annotations: image {image['id']} has a segmentation that is no mask ({error}); an object "
                        "needs a polygon of three points or more, or an encoding") from error
