"""A results file is read by lvis-api, whose own code then gives the same figures to the last bit."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from ecm_cluster.base.errors import UserError
from ecm_cluster.scoring import results_file, score
from ecm_cluster.scoring.detection_files import DetectionWriter, read_shards
from ecm_cluster.scoring.detections import of_image
from ecm_cluster.scoring.parts import COCO, LVIS, OWN, ScoredDataset, ScoredSet

SIZE, IMAGES, CLASSES = 64, 12, 4


def made(folder, seed=0, mask_scores=False):
    """An annotation file, and detections near its objects in three shards, in no order."""
    rng = np.random.default_rng(seed)
    document = {"images": [], "annotations": [], "categories": [
        {"id": 10 + k, "name": f"class {k}", "frequency": "rcff"[k], "image_count": 1, "instance_count": 1}
        for k in range(CLASSES)]}
    writers = [DetectionWriter(IMAGES) for _ in range(3)]
    for at in range(IMAGES):
        document["images"].append({"id": 100 - at, "height": SIZE, "width": SIZE, "coco_url": f"http://x/{at}.jpg",
                                   "neg_category_ids": [10 + int(rng.integers(CLASSES))],
                                   "not_exhaustive_category_ids": [10] if at == 3 else []})
        boxes = np.hstack([rng.uniform(0, 30, (6, 2)), rng.uniform(5, 30, (6, 2))])
        for box in boxes[:3].round(2).tolist():
            x, y, w, h = box
            document["annotations"].append({
                "id": len(document["annotations"]) + 1, "image_id": 100 - at, "area": w * h, "bbox": box,
                "category_id": 10 + int(rng.integers(CLASSES)),
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]})
        found = (boxes + rng.normal(0, 1, boxes.shape)).clip(1).astype(np.float32).astype(np.float64)
        corners = [[x, y, x + w, y, x + w, y + h, x, y + h] for x, y, w, h in found.tolist()]
        scores = rng.integers(0, 20, 6) / np.float32(19)  # equal ones, too
        writers[at % 3].add(at, of_image(100 - at, rng.integers(10, 10 + CLASSES, 6), scores, found,
                                         mask_utils.frPyObjects(corners, SIZE, SIZE),
                                         scores[::-1] if mask_scores else None))
    (folder / "truth.json").write_text(json.dumps(document))
    shards = [writer.write(folder / f"{n}.npz") for n, writer in enumerate(writers)]
    images = [image["id"] for image in document["images"]]
    part = ScoredDataset(LVIS, "LVISFromFile", str(folder / "truth.json"), images, [10, 11, 12, 13])
    return shards, ScoredSet([part], by_position=False)


@pytest.mark.slow
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_lvis_api_gives_the_same_figures_from_it(tmp_path, iou_type, monkeypatch):
    from lvis import LVIS as Lvis
    from lvis import LVISEval, LVISResults

    monkeypatch.setattr(np, "float", float, raising=False)
    shards, scored = made(tmp_path)
    with open(tmp_path / "results.json", "wb") as handle:
        assert results_file.write(handle, shards, scored) == 6 * IMAGES
    truth = Lvis(str(tmp_path / "truth.json"))
    evaluation = LVISEval(truth, LVISResults(truth, str(tmp_path / "results.json")), iou_type)
    evaluation.run()
    figures = score.score(tmp_path / "truth.json", read_shards(shards))["figures"][iou_type]
    assert 0 < figures["AP"] < 1
    assert figures == {name: value if value != -1 else None for name, value in evaluation.results.items()}


def rows_of(shards, scored):
    handle = io.BytesIO()
    results_file.write(handle, shards, scored)
    return json.loads(handle.getvalue())


def test_detections_by_position_get_the_ids_of_the_annotation_file(tmp_path):
    writer = DetectionWriter(2)
    writer.add(0, of_image(0, [], [], [], None))
    writer.add(1, of_image(1, [2], [0.5], [[1, 2, 3, 4]], None))
    scored = ScoredSet([ScoredDataset(COCO, "CocoDataset", "x.json", ["a", "b"], ["x", "y", "z"])], by_position=True)
    assert rows_of([writer.write(tmp_path / "0.npz")], scored) == [
        {"image_id": "b", "category_id": "z", "bbox": [1, 2, 3, 4], "score": 0.5}]


def test_a_mask_has_its_own_score_where_the_model_gives_one(tmp_path):
    shards, scored = made(tmp_path, mask_scores=True)
    assert [row["score"] for row in rows_of(shards, scored)][:6] \
        == read_shards(shards).take(slice(0, 6)).scores("segm").tolist()


def test_what_is_not_whole_is_refused(tmp_path):
    shards, scored = made(tmp_path)
    with pytest.raises(UserError, match="cover 8 of 12 images"):
        rows_of(shards[:2], scored)


def test_what_has_no_such_form_is_refused():
    own = ScoredDataset(OWN, "VOCDataset", "x", [1], [1])
    with pytest.raises(UserError, match="VOCDataset is scored by its own"):
        results_file.check(ScoredSet([own], False))
    with pytest.raises(UserError, match="has 2 datasets"):
        results_file.check(ScoredSet([own, own], True))
