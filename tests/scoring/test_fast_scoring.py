"""The fast scorer's precision and recall are lvis-api's to the last bit, for any content of the files.

lvis-api runs whole and as it ships, from JSON files; only numpy gets its old name for float back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_utils

from ecm_cluster.base.errors import UserError
from ecm_cluster.scoring import metrics
from ecm_cluster.scoring.detections import IOU_TYPES, Detections, concatenate, of_image
from ecm_cluster.scoring.matches import Accumulator

pytest.importorskip("hotcoco")
from ecm_cluster.scoring import hotcoco  # noqa: E402

HEIGHT, WIDTH = 120, 130  # a box can be small, medium and large in it
IMAGES = [2**53 + 1, 0, 2**53]  # out of order, and equal or zero as doubles
CATEGORIES = [11, 2**53 + 1, 0]
SCORES = [0.5, 0.9, 0.1, 0.0, -0.0, 0.30000000000000004, 0.3, 1.5, -1.0]
# corners on a coarse grid: equal overlaps and overlaps at a threshold are common
BOXES = [[0, 0, 10, 10], [0, 0, 10, 20], [0, 0, 10, 5], [0, 5, 10, 10], [0, 0, 32, 32], [0, 0, 32, 40], [0, 0, 96, 96],
         [0, 0, 100, 120], [20, 20, 0, 10], [20, 20, 5, 0], [20, 20, -5, -6], [-5, -5, 20, 20],
         [60.25, 50.5, 7.75, 9.1]]
MASKS = ["polygon", "parts", "counts", "string", "other size", "empty", "outside", "line", "all"]


def rle(x: float, y: float, w: float, h: float, height: int = HEIGHT, width: int = WIDTH) -> dict[str, Any]:
    bitmap = np.zeros((height, width), np.uint8, order="F")
    bitmap[max(int(y), 0):max(int(y + h), 0), max(int(x), 0):max(int(x + w), 0)] = 1
    encoded = mask_utils.encode(bitmap)
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def segmentation(kind: str, box: list[float]) -> Any:
    x, y, w, h = box
    triangle = [x, y, x + w, y, x + w / 2, y + h]
    corners = [x, y, x + w, y, x + w, y + h, x, y + h]
    forms = {"polygon": [corners], "parts": [triangle, corners[:6], [x, y, x, y + h, x + w, y]],
             "counts": {"size": [HEIGHT, WIDTH], "counts": [7, 300, HEIGHT * WIDTH - 307]}, "string": rle(*box),
             "other size": rle(*box, height=HEIGHT + 1), "empty": rle(0, 0, 0, 0),
             "outside": [[x + 500, y - 700, *corners[2:]]], "line": [[x, y, x + w, y, x, y]],
             "all": rle(0, 0, WIDTH, HEIGHT)}
    return forms[kind]


boxes = st.sampled_from([*BOXES[:2] * 4, *BOXES])
objects = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), boxes,
                             st.sampled_from([*["polygon", "string"] * 3, *MASKS]),
                             st.sampled_from([*["box"] * 6, "zero", "negative", "edge", "huge"]),
                             st.sampled_from([*[None] * 6, 0, 1]), st.booleans()), max_size=8)
detections = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), boxes, st.sampled_from(SCORES),
                                st.sampled_from([*["string"] * 6, "other size", "empty", "all"])),
                      min_size=1, max_size=14)
lists = st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=3, max_size=3)


def annotations(objects: list[tuple], negative: list[list[int]], unfinished: list[list[int]], first: int,
                ) -> dict[str, Any]:
    """An LVIS document; ids of objects go down to ``first``, category 99 is in no list of categories."""
    areas = {"zero": 0, "negative": -3.0, "edge": 32**2, "huge": 1e5**2}
    document: dict[str, Any] = {
        "images": [{"id": i, "height": HEIGHT, "width": WIDTH, "coco_url": f"http://x/val2017/{at:012d}.jpg",
                    "neg_category_ids": [[*CATEGORIES, 99][k] for k in negative[at]],
                    "not_exhaustive_category_ids": [[*CATEGORIES, 99][k] for k in unfinished[at]]}
                   for at, i in enumerate(IMAGES)],
        "categories": [{"id": c, "name": f"class_{c}", "frequency": "frc"[k], "image_count": k, "instance_count": k}
                       for k, c in enumerate(CATEGORIES)],
        "annotations": []}
    for at, (image, category, box, mask, area, ignore, crowd) in enumerate(objects):
        document["annotations"].append({
            "id": first + len(objects) - 1 - at, "image_id": IMAGES[image], "category_id": CATEGORIES[category],
            "bbox": box, "segmentation": segmentation(mask, box), "iscrowd": int(crowd),
            "area": areas.get(area, abs(box[2] * box[3])), **({} if ignore is None else {"ignore": ignore})})
    return document


def columns(rows: list[tuple]) -> Detections:
    parts = []
    for at, image in enumerate(IMAGES):
        of = [row for row in rows if row[0] == at]
        parts.append(of_image(image, [[*CATEGORIES, 99][row[1]] for row in of], [row[3] for row in of],
                              [row[2] for row in of], [segmentation(row[4], row[2]) for row in of]))
    return concatenate(parts)


def by_lvis_api(folder: Path, document: dict[str, Any], found: Detections, iou_type: str, max_dets: int) -> Any:
    """lvis-api from files."""
    from lvis import LVIS, LVISEval, LVISResults

    (folder / "truth.json").write_text(json.dumps(document))
    (folder / "found.json").write_text(json.dumps(found.to_lvis_results(iou_type)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "float", float, raising=False)
        truth = LVIS(str(folder / "truth.json"))
        results = LVISResults(truth, str(folder / "found.json"), max_dets=max_dets)
        evaluation = LVISEval(truth, results, iou_type)
        evaluation.params.max_dets = max_dets
        evaluation.run()
    return evaluation


def check_equal(folder: Path, document: dict[str, Any], found: Detections, iou_type: str, max_dets: int) -> None:
    expected = by_lvis_api(folder, document, found, iou_type, max_dets)
    truth = hotcoco.GroundTruth(document)
    precision, recall = hotcoco.evaluate(truth, found, iou_type, max_dets)
    assert np.array_equal(precision, expected.eval["precision"])
    assert np.array_equal(recall, expected.eval["recall"])
    curves = metrics.of_lvis(precision, recall, document["categories"], max_dets)
    assert metrics.figures(curves) == dict(expected.results)
    again = Accumulator(hotcoco.find_matches(truth, found, iou_type, max_dets))()
    assert np.array_equal(again[0], precision) and np.array_equal(again[1], recall)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fast")


differential = given(objects=objects, rows=detections, negative=lists, unfinished=lists, first=st.integers(0, 2),
                     iou_type=st.sampled_from(["bbox", "segm"]), max_dets=st.sampled_from([300, 300, 3]))


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@differential
def test_arrays_equal_those_of_lvis_api_to_the_last_bit(folder, objects, rows, negative, unfinished, first, iou_type,
                                                         max_dets):
    check_equal(folder, annotations(objects, negative, unfinished, first), columns(rows), iou_type, max_dets)


NO_LISTS: list[list[int]] = [[], [], []]
SQUARE, TALL, HALF, MEDIUM, FLAT = BOXES[0], BOXES[1], BOXES[2], BOXES[5], BOXES[8]


def thing(image: int, category: int, box: list[float], mask: str = "polygon", area: str = "box",
          ignore: int | None = None, crowd: bool = False) -> tuple:
    return image, category, box, mask, area, ignore, crowd


def seen(image: int, category: int, box: list[float], score: float, mask: str = "string") -> tuple:
    return image, category, box, score, mask


# objects, detections, and by image: categories known to be missing, categories not annotated throughout
ADVERSARIAL: dict[str, tuple[list[tuple], list[tuple], list[list[int]], list[list[int]]]] = {
    "a detection without area above one that hits": (
        [thing(0, 0, SQUARE)], [seen(0, 0, FLAT, 0.9), seen(0, 0, SQUARE, 0.5)], NO_LISTS, NO_LISTS),
    "a detection without area uses up the limit": (
        [thing(0, 0, SQUARE)], [*[seen(0, 0, FLAT, 0.9)] * 3, seen(0, 0, SQUARE, 0.5)], NO_LISTS, NO_LISTS),
    "a box of negative sides has an area": (
        [thing(0, 0, SQUARE)], [seen(0, 0, BOXES[10], 0.9), seen(0, 0, SQUARE, 0.5)], NO_LISTS, NO_LISTS),
    "an object without area": (
        [thing(0, 0, SQUARE, area="zero"), thing(1, 0, SQUARE)], [seen(0, 0, SQUARE, 0.9), seen(1, 0, SQUARE, 0.5)],
        NO_LISTS, NO_LISTS),
    "an object without area in a category known to be missing": (
        [thing(0, 0, SQUARE, area="zero"), thing(1, 0, SQUARE)], [seen(0, 0, SQUARE, 0.9), seen(1, 0, SQUARE, 0.5)],
        [[0], [], []], NO_LISTS),
    "more than the limit, with equal scores": (
        [thing(0, 0, SQUARE), thing(0, 1, TALL)],
        [*[seen(0, 2, MEDIUM, 0.5)] * 2, seen(0, 1, TALL, 0.5), seen(0, 0, SQUARE, 0.5), seen(0, 1, TALL, 0.9)],
        [[2], [], []], NO_LISTS),
    "not annotated throughout, without an object": (
        [thing(1, 0, SQUARE)], [seen(0, 0, SQUARE, 0.9), seen(1, 0, SQUARE, 0.5)], [[0], [], []], [[0], [], []]),
    "not annotated throughout, with an object": (
        [thing(0, 0, SQUARE), thing(1, 0, SQUARE)],
        [seen(0, 0, MEDIUM, 0.9), seen(0, 0, SQUARE, 0.8), seen(1, 0, MEDIUM, 0.7), seen(1, 0, SQUARE, 0.5)],
        NO_LISTS, [[0], [], []]),
    "neither present nor known to be missing": (
        [thing(0, 0, SQUARE)], [seen(1, 0, SQUARE, 0.9), seen(0, 0, SQUARE, 0.5)], NO_LISTS, NO_LISTS),
    "present and said to be missing": (
        [thing(0, 0, SQUARE)], [seen(0, 0, TALL, 0.9), seen(0, 0, SQUARE, 0.5)], [[0, 0, 3], [], []], [[3], [], []]),
    "a category of no object anywhere": (
        [thing(0, 0, SQUARE)], [seen(0, 2, SQUARE, 0.9), seen(0, 0, SQUARE, 0.5)], [[2], [], []], NO_LISTS),
    "the area of a mask differs from its box's": (
        [thing(0, 0, MEDIUM), thing(0, 0, SQUARE, "all")],
        [seen(0, 0, BOXES[6], 0.9, "empty"), seen(0, 0, MEDIUM, 0.8, "all"), seen(0, 0, SQUARE, 0.7, "all")],
        NO_LISTS, NO_LISTS),
    "areas at the ends of the ranges": (
        [thing(0, 0, BOXES[4]), thing(1, 0, BOXES[6]), thing(2, 0, SQUARE, area="huge")],
        [seen(0, 0, BOXES[4], 0.9), seen(1, 0, BOXES[6], 0.8), seen(2, 0, SQUARE, 0.7), seen(2, 0, BOXES[4], 0.6)],
        NO_LISTS, NO_LISTS),
    "an object to be ignored, hit and not": (
        [thing(0, 0, SQUARE, ignore=1), thing(0, 0, TALL), thing(1, 0, SQUARE, ignore=1)],
        [seen(0, 0, SQUARE, 0.9), seen(0, 0, TALL, 0.8), seen(1, 0, TALL, 0.7)], NO_LISTS, NO_LISTS),
    "a crowd is an object as any other": (
        [thing(0, 0, BOXES[7], crowd=True), thing(0, 1, TALL, crowd=True)],
        [seen(0, 0, SQUARE, 0.9), seen(0, 0, BOXES[7], 0.8), seen(0, 1, HALF, 0.7)], NO_LISTS, NO_LISTS),
    "empty masks on both sides": (
        [thing(0, 0, SQUARE, "empty"), thing(0, 1, SQUARE)],
        [seen(0, 0, SQUARE, 0.9, "empty"), seen(0, 1, SQUARE, 0.8, "empty"), seen(0, 1, SQUARE, 0.7)],
        NO_LISTS, NO_LISTS),
    "masks of another size than the image": (
        [thing(0, 0, SQUARE, "other size"), thing(0, 1, SQUARE)],
        [seen(0, 0, SQUARE, 0.9, "other size"), seen(0, 1, SQUARE, 0.8, "other size")], NO_LISTS, NO_LISTS),
    "polygons of several parts, outside and without width, and encodings": (
        [thing(0, 0, MEDIUM, "parts"), thing(0, 1, TALL, "outside"), thing(1, 0, TALL, "line"),
         thing(1, 1, MEDIUM, "counts"), thing(2, 0, MEDIUM, "string")],
        [seen(i, c, MEDIUM, 0.5) for i in range(3) for c in range(2)], NO_LISTS, NO_LISTS),
    "overlaps at a threshold and equal overlaps": (
        [thing(0, 0, TALL), thing(0, 0, SQUARE), thing(0, 0, BOXES[3])],
        [seen(0, 0, SQUARE, 0.9), seen(0, 0, BOXES[3], 0.9), seen(0, 0, HALF, 0.8), seen(0, 0, TALL, 0.7)],
        NO_LISTS, NO_LISTS),
    "equal scores over images, zero with either sign": (
        [thing(2, 0, SQUARE), thing(1, 0, SQUARE), thing(0, 0, SQUARE)],
        [seen(0, 0, TALL, 0.0), seen(1, 0, SQUARE, -0.0), seen(2, 0, FLAT, 0.0), seen(2, 0, SQUARE, 0.0),
         seen(1, 0, TALL, 0.0), seen(0, 0, SQUARE, -0.0), seen(0, 0, SQUARE, -1.0)], NO_LISTS, NO_LISTS),
    "a category and an image that the file does not have": (
        [thing(0, 0, SQUARE)], [seen(0, 3, SQUARE, 0.9), seen(0, 0, SQUARE, 0.5)], [[3], [], []], NO_LISTS),
}


@pytest.mark.parametrize("iou_type", IOU_TYPES)
@pytest.mark.parametrize("case", ADVERSARIAL)
def test_what_is_awkward_is_scored_as_lvis_api_scores_it(folder, case, iou_type):
    objects, rows, negative, unfinished = ADVERSARIAL[case]
    for max_dets in (300, 3):
        check_equal(folder, annotations(objects, negative, unfinished, 1), columns(rows), iou_type, max_dets)


@pytest.mark.parametrize("iou_type", IOU_TYPES)
def test_an_object_with_the_id_zero_takes_its_detection_without_making_it_right(folder, iou_type):
    objects = [thing(0, 0, SQUARE), thing(2, 1, SQUARE), thing(1, 1, SQUARE)]  # the last one has the id 0
    rows = [seen(0, 0, SQUARE, 0.9), seen(1, 1, SQUARE, 0.9), seen(1, 1, SQUARE, 0.8), seen(2, 1, SQUARE, 0.7)]
    best = []
    for unfinished in (NO_LISTS, [[], [1], []]):
        document = annotations(objects, NO_LISTS, unfinished, 0)
        assert document["annotations"][-1]["id"] == 0
        check_equal(folder, document, columns(rows), iou_type, 300)
        precision, _ = hotcoco.evaluate(hotcoco.GroundTruth(document), columns(rows), iou_type)
        best.append([round(float(precision[..., at, 0].max()), 9) for at in (1, 2)])  # categories 11 and 2**53 + 1
    assert best == [[1, round(1 / 3, 9)], [1, 1]]  # two wrong ones first, or two that do not count


def test_nothing_found_and_nothing_to_find_are_distinguished():
    document = annotations([thing(0, 0, SQUARE)], NO_LISTS, NO_LISTS, 1)
    found = columns([seen(0, 0, SQUARE, 0.5)]).take(slice(0))
    for iou_type in IOU_TYPES:
        precision, recall = hotcoco.evaluate(hotcoco.GroundTruth(document), found, iou_type)
        assert precision[:, :, 1, :2].max() == recall[:, 1, :2].max() == 0  # a small object of category 11
        assert (precision[:, :, [0, 2]] == -1).all() and (recall[:, 1, 2:] == -1).all()
    document["annotations"].clear()
    precision, _ = hotcoco.evaluate(hotcoco.GroundTruth(document), columns([seen(0, 0, SQUARE, 0.5)]), "bbox")
    assert (precision == -1).all()


def test_a_segmentation_that_is_none_is_named():
    document = annotations([thing(0, 0, SQUARE)], NO_LISTS, NO_LISTS, 1)
    document["annotations"][0]["segmentation"] = [[1, 2, 3, 4]]
    with pytest.raises(UserError, match=f"image {IMAGES[0]} has a segmentation that is not a mask"):
        hotcoco.evaluate(hotcoco.GroundTruth(document), columns([seen(0, 0, SQUARE, 0.5)]), "segm")
