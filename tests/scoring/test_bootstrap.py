"""Intervals come from the figures of drawn images, which are those of scoring the drawn images again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from ecm_cluster.base.errors import UserError
from ecm_cluster.scoring import metrics, score
from ecm_cluster.scoring.detections import IOU_TYPES, Detections, concatenate, of_image

pytest.importorskip("hotcoco")
from ecm_cluster.scoring import hotcoco  # noqa: E402
from ecm_cluster.scoring.bootstrap import bootstrap  # noqa: E402
from ecm_cluster.scoring.matches import Accumulator  # noqa: E402

IMAGES, CLASSES, SIDE = 12, 7, 150


def image_of(rng: np.random.Generator) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """One image of an LVIS file, its objects, and the detections on it."""
    present = rng.choice(CLASSES, rng.integers(1, 4), replace=False)
    absent = np.setdiff1d(np.arange(CLASSES), present)[:3]
    record = {"height": SIDE, "width": SIDE, "neg_category_ids": absent.tolist(),
              "not_exhaustive_category_ids": present[rng.random(len(present)) < 0.2].tolist()}
    label = np.repeat(present, rng.integers(1, 4, len(present)))
    box = np.hstack([rng.uniform(0, 40, (len(label), 2)), rng.uniform(8, 110, (len(label), 2))])
    objects = [{"category_id": c, "bbox": b, "area": b[2] * b[3], "segmentation": encoded(b)}
               for c, b in zip(label.tolist(), box.tolist())]
    near = rng.integers(0, len(label), 20)
    guess = np.where(rng.random(20) < 0.6, label[near], rng.integers(0, CLASSES, 20))
    found = box[near] * rng.normal(1, 0.08, (20, 4))
    return record, objects, {"category_ids": guess, "scores": rng.random(20), "bbox": found,
                             "rles": [encoded(b) for b in found.tolist()]}


def encoded(box: list[float]) -> dict[str, Any]:
    x, y, w, h = (round(v) for v in box)
    bitmap = np.zeros((SIDE, SIDE), np.uint8, order="F")
    bitmap[y:y + h, x:x + w] = 1
    return {"size": [SIDE, SIDE], "counts": mask_utils.encode(bitmap)["counts"].decode()}


def data(times: np.ndarray | None = None) -> tuple[dict[str, Any], Detections]:
    """The document and the detections with each image there ``times`` times, copies next to each other."""
    rng = np.random.default_rng(4)
    document: dict[str, Any] = {"images": [], "annotations": [], "categories": [
        {"id": k, "name": f"class_{k}", "frequency": "rcf"[k % 3], "image_count": k, "instance_count": k}
        for k in range(CLASSES)]}
    parts = []
    for at in range(IMAGES):
        record, objects, found = image_of(rng)
        for copy in range(1 if times is None else times[at]):
            image_id = 100 * at + copy
            document["images"].append({"id": image_id, **record})
            document["annotations"] += [{"id": len(document["annotations"]) + 1 + k, "image_id": image_id, **o}
                                        for k, o in enumerate(objects)]
            parts.append(of_image(image_id, **found))
    return document, concatenate(parts)


@pytest.mark.parametrize("iou_type", IOU_TYPES)
def test_a_draw_has_the_figures_of_a_file_with_the_drawn_images(iou_type):
    document, found = data()
    accumulate = Accumulator(hotcoco.find_matches(hotcoco.GroundTruth(document), found, iou_type))
    rng = np.random.default_rng(0)
    for times in (np.ones(IMAGES, int), *(np.bincount(rng.integers(0, IMAGES, IMAGES), minlength=IMAGES)
                                          for _ in range(4))):
        drawn_document, drawn = data(times)
        expected = hotcoco.evaluate(hotcoco.GroundTruth(drawn_document), drawn, iou_type)
        precision, recall = accumulate(times)
        assert np.array_equal(precision, expected[0]) and np.array_equal(recall, expected[1])


def test_intervals_are_those_of_the_replicates_and_equal_for_equal_seeds():
    document, found = data()
    matches = hotcoco.find_matches(hotcoco.GroundTruth(document), found, "bbox")
    categories = document["categories"]
    first = bootstrap(matches, categories, replicates=40, seed=1)
    assert first == bootstrap(matches, categories, replicates=40, seed=1)
    assert first != bootstrap(matches, categories, replicates=40, seed=2)
    narrow = bootstrap(matches, categories, replicates=40, seed=1, confidence=0.5)
    point = metrics.figures(metrics.of_lvis(*Accumulator(matches)(), categories, 300))
    assert list(first) == list(point)
    for name, interval in first.items():
        assert interval["low"] <= narrow[name]["low"] <= narrow[name]["high"] <= interval["high"]
        assert interval["error"] == narrow[name]["error"] > 0
        assert point[name] - interval["low"] == pytest.approx(min(point[name], 1.959964 * interval["error"]))


def scored(folder: Path, **arguments: Any) -> dict[str, Any]:
    document, found = data()
    (folder / "truth.json").write_text(json.dumps(document))
    return score.score(folder / "truth.json", found, **arguments)


def test_scoring_gives_intervals_on_request_beside_the_same_figures(tmp_path):
    plain, asked = scored(tmp_path), scored(tmp_path, replicates=20, seed=3, confidence=0.9)
    drawn = asked.pop("bootstrap")
    assert asked == plain and json.loads(json.dumps(drawn, allow_nan=False)) == drawn
    assert (drawn["replicates"], drawn["seed"], drawn["confidence"]) == (20, 3, 0.9)
    for iou_type, intervals in drawn["intervals"].items():
        assert list(intervals) == list(plain["figures"][iou_type])
    assert scored(tmp_path, replicates=20, seed=3, confidence=0.9, scorer="lvis")["bootstrap"] == drawn


def test_a_figure_that_no_draw_defines_has_no_interval(tmp_path):
    document, found = data()
    for category in document["categories"]:
        category["frequency"] = "f"
    (tmp_path / "truth.json").write_text(json.dumps(document))
    drawn = score.score(tmp_path / "truth.json", found, ["bbox"], replicates=5)["bootstrap"]["intervals"]
    assert drawn["bbox"]["APr"] == {"low": None, "high": None, "error": None, "bias": None, "replicates": 0}


@pytest.mark.parametrize(("arguments", "complaint"), [
    ({"replicates": 1}, "bootstrap: invalid value 1; expected 2 replicates or more"),
    ({"replicates": 9, "confidence": 95}, "confidence: invalid value 95"),
])
def test_what_gives_no_interval_is_refused(tmp_path, arguments, complaint):
    with pytest.raises(UserError, match=complaint):
        scored(tmp_path, **arguments)
