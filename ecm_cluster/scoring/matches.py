"""LVIS ground truth and matches as columns, and precision and recall for images that count any number of times.

A match depends on its image alone. So the matches of a set of detections are found once, and everything after that
(the order by score, the sums, precision at each recall) can be repeated for any choice of images: that is what the
bootstrap does. With every image once the arrays are lvis-api's, to the last bit.

Imported where it is used, since it needs numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import metrics
from .detections import Detections, strongest

BEYOND = 4 * metrics.AREA_RANGES[0][1]  # an area in no range


class GroundTruth:
    """Objects of an LVIS document as columns, images and categories by position in ascending order of ids.

    Attributes:
        images: M image ids, ascending.
        categories: K category ids, ascending.
        image, category: (G,) position of each object that lvis-api considers.
        area: (G,) pixels, ``BEYOND`` if the object is to be ignored.
        zero: (G,) bool, the object's id is 0.
        present: sorted codes image * K + category of pairs that contain an object.
        absent: the same of pairs known to contain none
        unfinished: the same of pairs that are not exhaustively annotated.
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


@dataclass(frozen=True, eq=False)
class Admitted:
    """The n detections that are scored, in the given order.

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
    """The detections that lvis-api would consider."""
    score = found.scores(iou_type)
    area = found.bbox[:, 2] * found.bbox[:, 3]
    image, category = positions(truth.images, found.image_id), positions(truth.categories, found.category_id)
    # 1: an object is there, 2: known to be absent; the last place is for what the document does not contain
    listed = np.zeros(len(truth.images) * len(truth.categories) + 1, np.uint8)
    listed[truth.absent] = 2
    listed[truth.present] = 1
    state = listed[np.where((image >= 0) & (category >= 0), truth.code(image, category), -1)]
    rows = np.flatnonzero((state > 0) & (area > 0) & (area < np.inf) & strongest(found.image_id, score, max_dets))
    return Admitted(rows, image[rows], category[rows], state[rows] == 1, area[rows], score[rows])


@dataclass(frozen=True, eq=False)
class Matches:
    """Of N detections on M images, K categories, 4 areas and 10 thresholds; P pairs of image and category.

    Attributes:
        images: M.
        categories: K.
        image: (N,) int64 in [0, M).
        category: (N,) int64 in [0, K).
        score: (N,) float64.
        matched: (4, 10, N) bool, the detection hit an object.
        ignored: (4, 10, N) bool, it counts neither as right nor as wrong.
        truth_image: (P,) int64 in [0, M).
        truth_category: (P,) int64 in [0, K).
        truths: (P, 4) int64, objects that count, by area.
    """

    images: int
    categories: int
    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    truth_image: np.ndarray
    truth_category: np.ndarray
    truths: np.ndarray


class Accumulator:
    """Precision and recall of ``matches`` for any number of times that each image counts.

    An image that counts twice stands for two images with the same objects and detections, one after the other
    in the order of the images, which decides between equal scores. With ``areas=1`` only objects of all sizes are
    looked at, at a quarter of the cost.
    """

    def __init__(self, matches: Matches, areas: int = len(metrics.AREAS)) -> None:
        self.matches = matches
        # lvis-api takes images by ascending id and sorts their detections by score, stably
        order = np.lexsort((np.arange(len(matches.image)), matches.image, -matches.score, matches.category))
        self._areas = [_Area(matches, order, area) for area in range(areas)]

    def __call__(self, times: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Precision (10, 101, K, 4) and recall (10, K, 4), -1 where undefined, of images that count ``times``, (M,)."""
        m = self.matches
        times = np.ones(m.images, np.int64) if times is None else np.asarray(times, np.int64)
        thresholds, recalls = len(metrics.iou_thresholds()), len(metrics.recall_thresholds())
        # areas first in memory: each area's figures are then means over one piece
        precision = np.empty((len(self._areas), thresholds, recalls, m.categories))
        recall = np.empty((len(self._areas), thresholds, m.categories))
        for at, area in enumerate(self._areas):
            counted = np.bincount(m.truth_category, m.truths[:, at] * times[m.truth_image], m.categories)
            area.fill(times, counted.astype(np.int64), precision[at], recall[at])
        return np.moveaxis(precision, 0, -1), np.moveaxis(recall, 0, -1)


class _Area:
    """What of the detections matters for one range of areas.

    Precision at a recall is the best precision at or beyond it, and precision is at its best where a detection
    has just hit. So only the *hits* are looked at (detections that hit at any threshold), each with the number
    of misses since the one before it; what comes after the last hit of a category cannot change anything.
    """

    def __init__(self, matches: Matches, order: np.ndarray, area: int) -> None:
        matched, ignored = matches.matched[area][:, order], matches.ignored[area][:, order]
        hit = (matched & ~ignored).any(axis=0)
        category = matches.category[order]
        last = np.zeros(matches.categories, np.int64) - 1
        np.maximum.at(last, category[hit], np.flatnonzero(hit))
        kept = np.arange(len(order)) <= last[category]
        self.image = matches.image[order][kept]
        self.wrong = (~matched & ~ignored)[:, kept]
        hits = np.flatnonzero(hit[kept])
        self.hit_image = self.image[hits]
        self.right = (matched & ~ignored)[:, kept][:, hits]
        self.since = np.concatenate([[0], hits[:-1] + 1]) if len(hits) else hits  # after the hit before
        self.hit_category = category[kept][hits]
        self.begin = np.searchsorted(self.hit_category, np.arange(matches.categories))
        self.end = np.searchsorted(self.hit_category, np.arange(matches.categories), side="right")
        # in a row of hits with one place more for each category, behind its hits
        self.place = np.arange(len(hits)) + self.hit_category
        self.rest = self.end + np.arange(matches.categories)

    def fill(self, times: np.ndarray, counted: np.ndarray, precision: np.ndarray, recall: np.ndarray) -> None:
        """Write (10, 101, K) precision and (10, K) recall, ``counted`` being the (K,) numbers of objects."""
        wanted, categories = metrics.recall_thresholds(), len(counted)
        reached = np.zeros((len(self.right), categories), np.int64)  # of the 101 recalls
        value = np.zeros((len(self.right), len(self.hit_image) + categories))
        repeat = np.zeros(value.shape, np.int64)
        recall[:] = 0
        if len(self.hit_image):
            right = self._sums(self.right * times[self.hit_image])
            wrong = self._sums(np.add.reduceat(self.wrong * times[self.image], self.since, axis=1))
            # the formulas are lvis-api's, term by term
            best = right / (wrong + right + np.spacing(1))
            with np.errstate(invalid="ignore"):  # of a category none of whose objects counts
                share = right / counted[self.hit_category]
            within = np.searchsorted(wanted, share, side="right")
            some = np.flatnonzero(self.end > self.begin)
            first, last = self.begin[some], self.end[some] - 1
            for begin, end in zip(first.tolist(), (last + 1).tolist()):
                part = best[:, begin:end][:, ::-1]
                np.maximum.accumulate(part, axis=1, out=part)
            gained = np.diff(within, axis=1, prepend=0)
            gained[:, first] = within[:, first]
            value[:, self.place], repeat[:, self.place] = best, gained
            reached[:, some], recall[:, some] = within[:, last], share[:, last]
        repeat[:, self.rest] = len(wanted) - reached
        undefined = counted == 0
        value[:, self.place[undefined[self.hit_category]]] = 0
        spread = np.repeat(value.ravel(), repeat.ravel()).reshape(len(reached), categories, len(wanted))
        precision[:] = spread.transpose(0, 2, 1)
        precision[:, :, undefined] = -1
        recall[:, undefined] = -1

    def _sums(self, increments: np.ndarray) -> np.ndarray:
        """(10, hits) sums from the first hit of each category on."""
        sums = np.cumsum(increments, axis=1)
        before = np.concatenate([np.zeros((len(sums), 1), sums.dtype), sums], axis=1)
        return sums - before[:, self.begin[self.hit_category]]


def positions(known: np.ndarray, ids: Sequence[int] | np.ndarray) -> np.ndarray:
    """(n,) where each of ``ids`` is in ``known``, which ascends; -1 where it is not."""
    ids = np.asarray(ids, np.int64)
    at = np.minimum(np.searchsorted(known, ids), max(len(known) - 1, 0))
    return np.where(known[at] == ids, at, -1) if len(known) else np.full(len(ids), -1)


def contains(codes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return positions(codes, wanted) >= 0
