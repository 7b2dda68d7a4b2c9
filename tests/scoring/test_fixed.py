"""Fixed AP is what the published protocol gives with lvis-api's own code, under names that nothing else has."""

from __future__ import annotations

import json
from collections import defaultdict

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from ecm_cluster.base.errors import UserError
from ecm_cluster.reporting import tables
from ecm_cluster.scoring import metrics, score
from ecm_cluster.scoring.detections import concatenate, of_image

SIZE, IMAGES, CLASSES, EACH = 48, 6, 3, 40


def made(folder, mask_scores=False):
    """An annotation file and many detections on each image, some with equal scores."""
    rng = np.random.default_rng(3)
    document = {"images": [{"id": i, "height": SIZE, "width": SIZE, "coco_url": f"http://x/{i}.jpg",
                            "neg_category_ids": [1], "not_exhaustive_category_ids": []} for i in range(IMAGES)],
                "annotations": [], "categories": [
                    {"id": k, "name": f"class {k}", "frequency": "rcf"[k], "image_count": 1, "instance_count": 1}
                    for k in range(CLASSES)]}
    parts = []
    for image in range(IMAGES):
        boxes = np.hstack([rng.uniform(0, 20, (EACH, 2)), rng.uniform(4, 20, (EACH, 2))])
        for n, (x, y, w, h) in enumerate(boxes[:4].round(1).tolist()):
            document["annotations"].append({
                "id": len(document["annotations"]) + 1, "image_id": image, "category_id": n % CLASSES,
                "bbox": [x, y, w, h], "area": w * h, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]})
        corners = [[x, y, x + w, y, x + w, y + h, x, y + h] for x, y, w, h in boxes.tolist()]
        scores = rng.integers(0, 12, EACH) / 16
        parts.append(of_image(image, rng.integers(0, CLASSES, EACH), scores, boxes,
                              mask_utils.frPyObjects(corners, SIZE, SIZE), scores[::-1] if mask_scores else None))
    (folder / "truth.json").write_text(json.dumps(document))
    return folder / "truth.json", concatenate(parts)


def as_published(ann_file, found, iou_type, most):
    """Dave et al.: the best of each class over the set, by a stable sort, then lvis-api without a limit per image."""
    from lvis import LVIS, LVISEval, LVISResults

    of_class = defaultdict(list)
    for result in found.to_lvis_results(iou_type):
        of_class[result["category_id"]].append(result)
    kept = [r for results in of_class.values() for r in sorted(results, key=lambda r: r["score"], reverse=True)[:most]]
    ann_file.with_name("kept.json").write_text(json.dumps(kept))
    truth = LVIS(str(ann_file))
    evaluation = LVISEval(truth, LVISResults(truth, str(ann_file.with_name("kept.json")), max_dets=-1), iou_type)
    evaluation.params.max_dets = -1
    evaluation.run()
    return {name: value if value != -1 else None for name, value in evaluation.results.items()
            if name.startswith("AP")}


@pytest.mark.slow
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("most", [5, 30, 10_000])
@pytest.mark.parametrize("scorer", [None, "lvis"])
def test_it_is_what_the_published_protocol_gives(tmp_path, iou_type, most, scorer, monkeypatch):
    monkeypatch.setattr(metrics, "FIXED_DETS", most)
    monkeypatch.setattr(np, "float", float, raising=False)
    ann_file, found = made(tmp_path, mask_scores=True)
    result = score.score(ann_file, found, scorer=scorer, fixed=True)
    expected = as_published(ann_file, found, iou_type, most)
    assert 0 < expected["AP"] < 1
    assert result["figures"][iou_type + metrics.FIXED] == expected


def test_its_names_are_its_own(tmp_path):
    ann_file, found = made(tmp_path)
    result = score.score(ann_file, found, scorer="lvis", fixed=True)
    assert set(result["figures"]) == {"bbox-fixed", "segm-fixed"} and result["max_dets"] is None
    assert {"bbox-fixed", "segm-fixed"} <= set(result["per_class"][0]) and "bbox" not in result["per_class"][0]
    assert result["notes"] == ["Fixed AP: 3 of 3 classes have fewer than 10000 detections (at most 40 on an image)"]
    table = tables.metrics_table(result)
    assert "fixed mask" in table and "AR" not in table
    ordinary = score.score(ann_file, found, scorer="lvis")
    assert set(ordinary["figures"]) == {"bbox", "segm"} and "notes" not in ordinary


def test_more_detections_on_an_image_than_lvis_counts_are_all_of_use(tmp_path):
    ann_file, found = made(tmp_path)
    few = score.score(ann_file, found, ["bbox"], max_dets=4, scorer="lvis")["figures"]["bbox"]["AP"]
    assert score.score(ann_file, found, ["bbox"], scorer="lvis", fixed=True)["figures"]["bbox-fixed"]["AP"] > few


def test_intervals_have_its_names_too(tmp_path):
    pytest.importorskip("hotcoco")
    ann_file, found = made(tmp_path)
    drawn = score.score(ann_file, found, fixed=True, replicates=5)["bootstrap"]["intervals"]
    assert set(drawn) == {"bbox-fixed", "segm-fixed"} and all(name.startswith("AP") for name in drawn["bbox-fixed"])


def test_it_is_refused_where_it_does_not_exist(tmp_path):
    ann_file, found = made(tmp_path)
    with pytest.raises(UserError, match="^max_dets: Fixed AP has no maximum"):
        score.score(ann_file, found, max_dets=100, fixed=True)
    with pytest.raises(UserError, match="^fixed: only for annotation files of LVIS form"):
        score.score_document(score.read_annotations(ann_file), ann_file, found, fixed=True, rule="coco")
