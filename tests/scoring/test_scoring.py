"""Figures are those of lvis-api, to the last bit, fed as mmdet feeds it: through JSON."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_utils

from ecm_cluster.base import files
from ecm_cluster.base.errors import UserError
from ecm_cluster.scoring import metrics, score
from ecm_cluster.scoring.detections import Detections, concatenate, of_image

HOTCOCO = importlib.util.find_spec("hotcoco") is not None
needs_hotcoco = pytest.mark.skipif(not HOTCOCO, reason="hotcoco is not installed: it needs Python 3.10")

LABELS = 9
NAMES = [f"class_{k}" for k in range(LABELS)]
CATEGORY_IDS = [7, 2, 3, 11, 5, 1, 13, 4, 20]  # neither sorted nor without gaps


def random_document(rng: np.random.Generator, images: int = 6) -> dict[str, Any]:
    """LVIS ground truth with what is awkward in it: a category that is nowhere, areas of zero, full lists."""
    document: dict[str, Any] = {"images": [], "annotations": [], "categories": [
        {"id": c, "name": name, "frequency": "rcf"[k % 3] if k < 6 else "f", "image_count": 10 * k,
         "instance_count": 25 * k} for k, (c, name) in enumerate(zip(CATEGORY_IDS, NAMES))]}
    for image_id in rng.permutation(1000)[:images].tolist():
        height, width = rng.integers(30, 150, 2).tolist()
        present = rng.choice(LABELS - 1, rng.integers(0, 5), replace=False)
        absent = np.setdiff1d(np.arange(LABELS), present)
        partly = present[rng.random(len(present)) < 0.3]
        document["images"].append({
            "id": image_id, "height": height, "width": width,
            "coco_url": f"http://images.cocodataset.org/val2017/{image_id:012d}.jpg",
            "neg_category_ids": [CATEGORY_IDS[k] for k in rng.permutation(absent)[: rng.integers(0, 5)]],
            "not_exhaustive_category_ids": [CATEGORY_IDS[k] for k in partly]})
        for label in np.repeat(present, rng.integers(1, 4, len(present))):
            x, y = rng.uniform(0, width * 0.7), rng.uniform(0, height * 0.7)
            w, h = rng.uniform(2, width - x), rng.uniform(2, height - y)
            polygons = [[x, y, x + w, y, x + w, y + h, x, y + h / 2], [x, y, x + w / 2, y, x, y + h]]
            area = 0.0 if rng.random() < 0.05 else w * h * 0.75
            document["annotations"].append({
                "id": len(document["annotations"]) + 1, "image_id": image_id, "area": area,
                "category_id": CATEGORY_IDS[label], "bbox": [x, y, w, h],
                "segmentation": polygons[: rng.integers(1, 3)]})
    return document


def random_results(rng: np.random.Generator, document: dict[str, Any], each: int = 25,
                   mask_scoring: bool = False) -> list[Any]:
    """A detector's answer as mmdet's models give it: near ground truth and anywhere, ties, no area."""
    results = []
    for image in document["images"]:
        truth = [a for a in document["annotations"] if a["image_id"] == image["id"]]
        boxes: list[list[Any]] = [[] for _ in range(LABELS)]
        masks: list[list[Any]] = [[] for _ in range(LABELS)]
        for _ in range(rng.integers(0, each + 1)):
            label = int(rng.integers(LABELS))
            x, y = rng.uniform(0, image["width"] * 0.8), rng.uniform(0, image["height"] * 0.8)
            w, h = rng.uniform(0, 60, 2) * (rng.random() > 0.1)
            if truth and rng.random() < 0.6:
                near = truth[rng.integers(len(truth))]
                label = CATEGORY_IDS.index(near["category_id"])
                x, y, w, h = np.array(near["bbox"]) + rng.normal(0, rng.choice([0, 0.5, 3]), 4)
            bitmap = np.zeros((image["height"], image["width"]), np.uint8, order="F")
            bitmap[max(int(y), 0):int(y + h), max(int(x), 0):int(x + w)] = 1
            boxes[label].append([x, y, x + w, y + h, round(float(rng.random()), 1)])
            masks[label].append(mask_utils.encode(bitmap))
        stacked = [np.array(b, np.float32).reshape(-1, 5) for b in boxes]
        scores = [rng.random(len(b)).astype(np.float32) for b in boxes]
        results.append((stacked, (masks, scores) if mask_scoring else masks))
    return results


def columns(document: dict[str, Any], results: list[Any]) -> Detections:
    parts = []
    for image, (boxes, masks) in zip(document["images"], results):
        masks, scores = masks if isinstance(masks, tuple) else (masks, None)
        corners = np.concatenate(boxes).astype(np.float64)
        xywh = np.hstack([corners[:, :2], corners[:, 2:4] - corners[:, :2]])
        labels = [k for k, b in enumerate(boxes) for _ in b]
        parts.append(of_image(image["id"], [CATEGORY_IDS[k] for k in labels], corners[:, 4], xywh,
                              [dict(m) for of_class in masks for m in of_class],
                              None if scores is None else np.concatenate(scores)))
    return concatenate(parts)


def by_lvis_api(annotation_file: Path, results: list[Any], iou_type: str, max_dets: int) -> tuple[Any, list]:
    """mmdet's ``results2json``, the JSON file, lvis-api as it ships: with numpy's old name for float."""
    from lvis import LVIS, LVISEval, LVISResults
    from mmdet.datasets import LVISV1Dataset

    dataset = LVISV1Dataset(str(annotation_file), pipeline=[], classes=NAMES, test_mode=True)
    paths = dataset.results2json(results, str(annotation_file.with_suffix("")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "float", float, raising=False)
        truth = LVIS(str(annotation_file))
        evaluation = LVISEval(truth, LVISResults(truth, paths[iou_type], max_dets=max_dets), iou_type)
        evaluation.params.max_dets = max_dets
        evaluation.run()
    return evaluation, json.loads(Path(paths[iou_type]).read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scoring")


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), iou_type=st.sampled_from(["bbox", "segm"]),
       max_dets=st.sampled_from([300, 10]), mask_scoring=st.booleans())
def test_figures_equal_those_of_lvis_api_to_the_last_bit(folder, seed, iou_type, max_dets, mask_scoring):
    from ecm_cluster.scoring import lvis as lvis_api

    rng = np.random.default_rng(seed)
    document = random_document(rng)
    results = random_results(rng, document, mask_scoring=mask_scoring)
    found = columns(document, results)
    annotation_file = folder / "annotations.json"
    annotation_file.write_text(json.dumps(document))
    if not len(found):
        return
    expected, as_json = by_lvis_api(annotation_file, results, iou_type, max_dets)
    assert found.to_lvis_results(iou_type) == as_json
    precision, recall = lvis_api.evaluate(lvis_api.LvisTruth(document), found, iou_type, max_dets)
    assert np.array_equal(precision, expected.eval["precision"]) and np.array_equal(recall, expected.eval["recall"])
    curves = metrics.of_lvis(precision, recall, document["categories"], max_dets)
    assert metrics.figures(curves) == dict(expected.results)
    scored = score.score(annotation_file, found, [iou_type], max_dets)
    figures = scored["figures"].pop(iou_type)
    assert not scored["figures"] and list(figures) == list(expected.results)
    for name, value in figures.items():
        assert (-1 if value is None else value) == expected.results[name]
    for at, row in enumerate(scored["per_class"]):
        values = expected.eval["precision"][:, :, at, 0]
        assert row[iou_type] == (np.mean(values[values > -1]) if (values > -1).any() else None)


def test_only_the_300_strongest_of_an_image_count(tmp_path):
    rng = np.random.default_rng(5)
    document = random_document(rng, images=2)
    results = random_results(rng, document, each=0)
    truth = document["annotations"][0]
    at = [i["id"] for i in document["images"]].index(truth["image_id"])
    x, y, w, h = truth["bbox"]
    boxes = np.tile(np.array([x, y, x + w, y + h, 0.5], np.float32), (310, 1))
    boxes[:309, :2] -= 50  # only the last hits, and its score is as high as that of those before it
    results[at][0][CATEGORY_IDS.index(truth["category_id"])] = boxes
    empty = mask_utils.encode(np.zeros((5, 5), np.uint8, order="F"))
    results[at][1][CATEGORY_IDS.index(truth["category_id"])] = [empty] * 310
    annotation_file = tmp_path / "annotations.json"
    annotation_file.write_text(json.dumps(document))
    ap = {}
    for max_dets in (300, 310):
        expected, _ = by_lvis_api(annotation_file, results, "bbox", max_dets)
        scored = score.score(annotation_file, columns(document, results), ["bbox"], max_dets)
        ap[max_dets] = scored["figures"]["bbox"]["AP"]
        assert ap[max_dets] == expected.results["AP"]
    assert ap[300] == 0 and ap[310] > 0


def scored_files(folder: Path, seed: int = 3) -> tuple[Path, Detections]:
    rng = np.random.default_rng(seed)
    document = random_document(rng)
    (folder / "annotations.json").write_text(json.dumps(document))
    return folder / "annotations.json", columns(document, random_results(rng, document))


def test_no_detections_at_all_score_zero(tmp_path):
    annotation_file, found = scored_files(tmp_path)
    scored = score.score(annotation_file, found.take(slice(0)))
    assert scored["detections"] == 0
    for figures in scored["figures"].values():
        assert figures["AP"] == figures["AP50"] == figures["AR@300"] == 0
    by_name = {row["name"]: row for row in scored["per_class"]}
    assert by_name["class_8"]["bbox"] is None  # nowhere in the ground truth
    assert {row["segm"] for row in scored["per_class"]} == {0.0, None}


def test_the_document_survives_json_and_says_where_the_figures_came_from(tmp_path):
    annotation_file, found = scored_files(tmp_path)
    said = []
    scored = score.score(annotation_file, found, on_progress=lambda *state: said.append(state))
    assert [state for state in said if state[1] == LABELS] == [(t, LABELS, LABELS) for t in ("bbox", "segm")]
    first = scored["per_class"][0]
    assert {k: first[k] for k in ("id", "name", "frequency", "image_count", "instance_count")} == {
        "id": 1, "name": "class_5", "frequency": "f", "image_count": 50, "instance_count": 125}
    provenance = {"checkpoint_digest": "sha256:1", "annotations_digest": files.digest(annotation_file),
                  "config_digest": "sha256:3", "settings": {"max_dets": 300}, "versions": score.versions()}
    document = score.metrics_document(scored, provenance)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["provenance"]["versions"]["lvis"] == "0.5.3" and document["figures"] == scored["figures"]
    with pytest.raises(ValueError, match="provenance lacks config_digest"):
        score.metrics_document(scored, {**provenance, "config_digest": None})


def test_boxes_without_masks_are_scored_by_boxes_unless_masks_are_asked_for(tmp_path):
    annotation_file, found = scored_files(tmp_path)
    both, boxes = score.score(annotation_file, found), dataclasses.replace(found, masks=None)
    assert score.score(annotation_file, boxes)["figures"] == {"bbox": both["figures"]["bbox"]}
    with pytest.raises(UserError, match="segm: these detections have no masks"):
        score.score(annotation_file, boxes, ["bbox", "segm"])


def test_numpy_is_left_as_it_was(tmp_path):
    import lvis.eval

    annotation_file, found = scored_files(tmp_path)
    before = vars(np).get("float")
    score.score(annotation_file, found)
    assert vars(np).get("float") is before and lvis.eval.np is np


def test_plain_coco_annotations_are_scored_by_pycocotools_without_frequencies(tmp_path, capsys):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotation_file, found = scored_files(tmp_path)
    document = json.loads(annotation_file.read_text())
    for image in document["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    for category in document["categories"]:
        del category["frequency"], category["image_count"], category["instance_count"]
    for annotation in document["annotations"]:
        annotation["iscrowd"] = 0
    annotation_file.write_text(json.dumps(document))
    scored = score.score(annotation_file, found, max_dets=100)
    assert capsys.readouterr().out == ""
    truth = COCO(str(annotation_file))
    for iou_type, figures in scored["figures"].items():
        results = found.to_lvis_results(iou_type)
        for result in results if iou_type == "segm" else ():
            result.pop("bbox")
        evaluation = COCOeval(truth, truth.loadRes(results), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR@100", "ARs@100", "ARm@100", "ARl@100"]
        for name, value in zip(names, np.delete(evaluation.stats, [6, 7])):  # they have no AR@1 and AR@10
            assert (-1 if figures[name] is None else figures[name]) == value
        assert figures["APr"] is figures["APc"] is figures["APf"] is None
    assert scored["scorer"] == "coco" and scored["per_class"][0]["image_count"] is None
    nothing = score.score(annotation_file, found.take(slice(0)))
    assert nothing["figures"]["segm"]["AP"] == 0


def broken(document: dict[str, Any], how: str) -> None:
    if how == "frequency":
        document["categories"][2]["frequency"] = "often"
    elif how == "negatives":
        del document["images"][0]["neg_category_ids"]
    elif how == "image":
        document["images"].pop()
    elif how == "area":
        del document["annotations"][1]["area"]
    elif how == "twice":
        document["annotations"][1]["id"] = document["annotations"][0]["id"]
    else:
        del document["categories"]


@pytest.mark.parametrize(("how", "complaint"), [
    ("frequency", "categories: frequency is missing or wrong in 1 of 9 entries"),
    ("negatives", "images: neg_category_ids is missing or wrong in 1 of 6 entries"),
    ("image", "0 of its 5 images have no detections recorded, and 1 images with detections are not in it"),
    ("area", r"annotations: area is missing in 1 of \d+ entries"),
    ("twice", "annotations: 1 duplicate ids"),
    ("categories", "not an LVIS or COCO file"),
])
def test_annotations_that_do_not_fit_are_refused_with_what_is_missing(tmp_path, how, complaint):
    annotation_file, found = scored_files(tmp_path)
    document = json.loads(annotation_file.read_text())
    broken(document, how)
    annotation_file.write_text(json.dumps(document))
    with pytest.raises(UserError, match=complaint) as error:
        score.score(annotation_file, found)
    assert "\n" not in str(error.value) and str(annotation_file) in str(error.value)


@pytest.mark.parametrize("text", ["5", "null", "[]", "{}", "[" * 100_000, "{", "\xff"])
def test_anything_except_an_annotation_file_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "annotations.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=f"^{path}: not "):
        score.read_annotations(path)


@needs_hotcoco
def test_the_reference_gives_the_very_document_of_the_fast_scorer(tmp_path):
    annotation_file, found = scored_files(tmp_path)
    said: list[Any] = []
    reference = score.score(annotation_file, found, scorer="lvis", on_progress=lambda *state: said.append(state))
    assert said == [(t, k, LABELS) for t in ("bbox", "segm") for k in range(1, LABELS + 1)]
    fast = score.score(annotation_file, found, scorer="hotcoco")
    assert (fast.pop("scorer"), reference.pop("scorer")) == ("hotcoco", "lvis") and fast == reference


def test_without_the_fast_scorer_the_reference_scores_and_is_named(tmp_path, monkeypatch):
    annotation_file, found = scored_files(tmp_path)
    assert score.score(annotation_file, found)["scorer"] == ("hotcoco" if HOTCOCO else "lvis")
    monkeypatch.setitem(sys.modules, "hotcoco", None)  # as where it is not installed
    assert score.score(annotation_file, found)["scorer"] == "lvis"
    for arguments in ({"scorer": "hotcoco"}, {"replicates": 9}):
        with pytest.raises(UserError, match="hotcoco.*is not installed here"):
            score.score(annotation_file, found, **arguments)


def test_detections_of_a_diverged_model_are_refused(tmp_path):
    annotation_file, found = scored_files(tmp_path)
    found.score[5] = np.nan
    found.bbox[7, 2] = np.inf
    with pytest.raises(UserError, match=f"2 of {len(found)} have a box or a score that is not a finite number"):
        score.score(annotation_file, found)


@pytest.mark.parametrize(("arguments", "complaint"), [
    ({"scorer": "lviss"}, "scorer: 'lviss' is unknown .did you mean lvis"),
    ({"iou_types": ["mask"]}, "iou_type: 'mask' is unknown"),
    ({"max_dets": 0}, "max_dets: invalid value 0"),
])
def test_wrong_settings_are_refused_before_anything_is_read(tmp_path, arguments, complaint):
    _, found = scored_files(tmp_path)
    with pytest.raises(UserError, match=complaint):
        score.score(tmp_path / "nowhere.json", found, **arguments)


def test_an_unreadable_annotation_file_is_named(tmp_path):
    _, found = scored_files(tmp_path)
    with pytest.raises(UserError, match=r"nowhere.json: the annotation file does not exist"):
        score.score(tmp_path / "nowhere.json", found)
    (tmp_path / "half.json").write_text('{"images": [')
    with pytest.raises(UserError, match=r"half.json: not a readable JSON"):
        score.score(tmp_path / "half.json", found)
