"""Every detection as right or as one of TIDE's errors, and every object as found, missed or neither.

The definitions are those of TIDE (Bolya et al., A General Toolbox for Identifying Object Detection Errors, ECCV 2020)
at an overlap of 0.5, with 0.1 as the border to the background. What is considered at all is what the scoring rule
considers, which TIDE leaves open: by LVIS's, a detection of a class that is neither listed as present nor as absent on
its image is nobody's error, nor is one that hits nothing in a class that is not exhaustively annotated there; by
COCO's, one inside a crowd is not.

hotcoco has TIDE too, but only its mean over all classes: the classes of one frequency alone lose the confusions with
all others, and its confusion matrix does not know LVIS's lists. Where it says the same as this module, tests compare
the two.

Imported where it is used, since it needs numpy and pycocotools.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from ..scoring.detections import Detections, strongest
from ..scoring.matches import BEYOND, Admitted, GroundTruth, admit, contains, positions
from ..scoring.parts import LVIS

OVERLAP, BACKGROUND = 0.5, 0.1
RIGHT, IGNORED, CLS, LOC, BOTH, DUPE, BKG = range(7)
ERRORS = {"Cls": CLS, "Loc": LOC, "Both": BOTH, "Dupe": DUPE, "Bkg": BKG}


@dataclass(frozen=True, eq=False)
class Verdicts:
    """N detections that are considered, image by image and the best first, and G objects.

    Attributes:
        truth: The objects, images and categories.
        rows: (N,) positions among all detections.
        image, category: (N,) positions in ``truth``.
        score: (N,).
        verdict: (N,) ``RIGHT``, ``IGNORED``, or an error.
        target: (N,) the object that it is right about, or would be without its error (``CLS``, ``LOC``); else -1.
        doubled: (N,) bool, it overlaps an object of its own class, so its class is correct.
        counts: (G,) bool, the object is to be found.
        found_by: (G,) the detection that is right about the object, or -1.
    """

    truth: GroundTruth
    rows: np.ndarray
    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    verdict: np.ndarray
    target: np.ndarray
    doubled: np.ndarray
    counts: np.ndarray
    found_by: np.ndarray


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Detections and objects that overlap by ``BACKGROUND`` or more, by ascending detection."""

    detection: np.ndarray
    object: np.ndarray
    overlap: np.ndarray

    def take(self, index: np.ndarray) -> _Pairs:
        return _Pairs(self.detection[index], self.object[index], self.overlap[index])

    def best(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """For each of n detections its largest overlap, and with which object; 0 and -1 without any."""
        largest, which = np.zeros(n), np.full(n, -1)
        order = np.lexsort((-self.overlap, self.detection))
        first, at = np.unique(self.detection[order], return_index=True)
        largest[first], which[first] = self.overlap[order][at], self.object[order][at]
        return largest, which


def judge(document: dict[str, Any], found: Detections, iou_type: str, rule: str, max_dets: int) -> Verdicts:
    """Judge detections against the content of an annotation file.

    Args:
        rule: ``lvis`` or ``coco``.
        max_dets: Detections considered per image by LVIS's rule, per image and class by COCO's.
    """
    if rule == LVIS:
        truth = GroundTruth(document)
        admitted = admit(truth, found, iou_type, max_dets)
    else:
        truth = GroundTruth(_with_lists(document))
        admitted = _admit_by_coco(truth, found, iou_type, max_dets)
    admitted = admitted.take(np.lexsort((-admitted.score, admitted.image)))
    counts = truth.area != BEYOND
    crowd = ~counts if rule != LVIS else np.zeros(len(counts), bool)
    pairs = _overlaps(truth, found, admitted, iou_type, crowd)
    own = pairs.take(admitted.category[pairs.detection] == truth.category[pairs.object])
    hit = _match(own.take(own.overlap >= OVERLAP), len(admitted.rows), counts, crowd)
    excused = contains(truth.unfinished, truth.code(admitted.image, admitted.category))
    verdict = np.full(len(hit), BOTH, np.int8)
    verdict[(hit < 0) & excused] = IGNORED
    verdict[hit >= 0] = np.where(counts[hit[hit >= 0]], RIGHT, IGNORED)
    found_by = np.full(len(counts), -1)
    found_by[hit[verdict == RIGHT]] = np.flatnonzero(verdict == RIGHT)
    target = np.where(verdict == RIGHT, hit, -1)
    doubled = _explain(pairs.take(counts[pairs.object]), admitted, truth, found_by, verdict, target)
    return Verdicts(truth, admitted.rows, admitted.image, admitted.category, admitted.score, verdict, target, doubled,
                    counts, found_by)


def _explain(pairs: _Pairs, admitted: Admitted, truth: GroundTruth, found_by: np.ndarray, verdict: np.ndarray,
             target: np.ndarray) -> np.ndarray:
    """Fill in the errors and their targets, in TIDE's order; returns ``doubled``."""
    n, wrong = len(verdict), verdict == BOTH
    pairs = pairs.take(wrong[pairs.detection])
    same = admitted.category[pairs.detection] == truth.category[pairs.object]
    close = pairs.overlap >= OVERLAP
    own, its_object = pairs.take(same).best(n)
    other, its_other = pairs.take(~same & close).best(n)
    again = np.zeros(n, bool)
    again[pairs.detection[same & close & (found_by[pairs.object] >= 0)]] = True
    near = np.zeros(n, bool)
    near[pairs.detection[pairs.overlap > BACKGROUND]] = True
    located = wrong & (own >= BACKGROUND) & (own <= OVERLAP)
    classed = wrong & ~located & (other >= OVERLAP)
    rest = wrong & ~located & ~classed
    for error, rows in ((LOC, located), (CLS, classed), (DUPE, rest & again), (BKG, rest & ~again & ~near)):
        verdict[rows] = error
    target[located], target[classed] = its_object[located], its_other[classed]
    return own >= OVERLAP


def _match(pairs: _Pairs, n: int, counts: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """(n,) the object that each detection hits, or -1: as lvis-api and pycocotools match them at one threshold.

    Detections choose one after the other, the best first, between what others have left: rather an object that counts,
    then the largest overlap, the last of equal ones. A crowd is never used up.
    """
    hit = np.full(n, -1)
    taken = np.zeros(len(counts), bool).tolist()
    used_up = (~crowd).tolist()
    weight = counts[pairs.object] * 2.0 + pairs.overlap
    # plain lists: numpy would take most of its time for calls on one or two numbers
    columns = zip(pairs.detection.tolist(), pairs.object.tolist(), weight.tolist())
    for detection, candidates in itertools.groupby(columns, key=operator.itemgetter(0)):
        choice, most = -1, 0.0
        for _, candidate, value in candidates:
            if value >= most and not taken[candidate]:
                choice, most = candidate, value
        if choice >= 0:
            hit[detection] = choice
            taken[choice] = used_up[choice]
    return hit


def _overlaps(truth: GroundTruth, found: Detections, admitted: Admitted, iou_type: str, crowd: np.ndarray) -> _Pairs:
    by_image = np.argsort(truth.image, kind="stable")
    parts = []
    for image, rows, objects in _by_image(admitted.image, truth.image[by_image]):
        members = by_image[objects]
        overlap = mask_utils.iou(_regions(found, admitted.rows[rows], iou_type),
                                 _regions_of(truth, image, members, iou_type), crowd[members].astype(np.uint8))
        at, of = np.nonzero(overlap >= BACKGROUND)
        parts.append((at + rows.start, members[of], overlap[at, of]))
    columns = zip(*parts) if parts else ([], [], [])
    return _Pairs(*(np.concatenate([np.zeros(0, kind), *column])
                    for kind, column in zip((np.int64, np.int64, np.float64), columns)))


def _by_image(of_rows: np.ndarray, of_objects: np.ndarray) -> Iterator[tuple[int, slice, slice]]:
    """The images that have both, each with its slices of two ascending columns."""
    both = np.intersect1d(of_rows, of_objects)
    edges = [np.searchsorted(column, both, side).tolist() for column in (of_rows, of_objects)
             for side in ("left", "right")]
    for image, a, b, c, d in zip(both.tolist(), *edges):
        yield image, slice(a, b), slice(c, d)


def _regions(found: Detections, rows: np.ndarray, iou_type: str) -> Any:
    if iou_type == "bbox" or found.masks is None:
        return found.bbox[rows]
    counts, masks = found.masks.counts, found.masks
    return [{"size": size, "counts": counts[begin:end].tobytes()}
            for (begin, end), size in zip(masks.span[rows].tolist(), masks.size[rows].tolist())]


def _regions_of(truth: GroundTruth, image: int, objects: np.ndarray, iou_type: str) -> Any:
    if iou_type == "bbox":
        return np.array([truth.annotations[i]["bbox"] for i in objects.tolist()], np.float64)
    record = truth.records[image]
    return [_encoded(truth.annotations[i]["segmentation"], record["height"], record["width"])
            for i in objects.tolist()]


def _encoded(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """As ``annToRLE`` of pycocotools and lvis-api."""
    if isinstance(segmentation, list):
        return mask_utils.merge(mask_utils.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_utils.frPyObjects(segmentation, height, width)
    return segmentation


def _with_lists(document: dict[str, Any]) -> dict[str, Any]:
    """A COCO document in LVIS's form: what is ignored there is a crowd, and an object of any area counts."""
    nothing: dict[str, Any] = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    return {**document, "images": [{**image, **nothing} for image in document["images"]],
            "annotations": [{**a, "area": 1.0, "ignore": a.get("iscrowd", 0)} for a in document["annotations"]]}


def _admit_by_coco(truth: GroundTruth, found: Detections, iou_type: str, max_dets: int) -> Admitted:
    image, category = positions(truth.images, found.image_id), positions(truth.categories, found.category_id)
    score, code = found.scores(iou_type), truth.code(image, category)
    rows = np.flatnonzero((image >= 0) & (category >= 0) & strongest(code, score, max_dets))
    return Admitted(rows, image[rows], category[rows], contains(truth.present, code[rows]),
                    found.bbox[rows, 2] * found.bbox[rows, 3], score[rows])
