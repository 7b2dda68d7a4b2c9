"""Which detections hit, as columns, and precision and recall from them for images that count any number of times.

A match depends on its image alone. So the matches of a set of detections are found once, and what comes after
(the order by score, the sums, precision at each recall) can be done again for any choice of images: that is
what the bootstrap does. With every image once the arrays are lvis-api's, to the last bit.

Imported where it is used, since it needs numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import metrics


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
    in the order of the images, which decides between equal scores.
    """

    def __init__(self, matches: Matches) -> None:
        self.matches = matches
        # lvis-api takes images by ascending id and sorts their detections by score, stably
        order = np.lexsort((np.arange(len(matches.image)), matches.image, -matches.score, matches.category))
        self._areas = [_Area(matches, order, area) for area in range(len(metrics.AREAS))]

    def __call__(self, times: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Precision (10, 101, K, 4) and recall (10, K, 4), -1 where undefined.

        Args:
            times: (M,) int, how often each image counts; None means once each.
        """
        m = self.matches
        times = np.ones(m.images, np.int64) if times is None else np.asarray(times, np.int64)
        thresholds, recalls = len(metrics.iou_thresholds()), len(metrics.recall_thresholds())
        # areas first in memory: each area's figures are then means over one piece
        precision = np.empty((4, thresholds, recalls, m.categories))
        recall = np.empty((4, thresholds, m.categories))
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
