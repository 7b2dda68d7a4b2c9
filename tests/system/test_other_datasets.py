"""Datasets of other kinds than LVIS's, trained and scored by the program, against mmdet's own figures."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small import ROOT, verb

from ecm_cluster.chain import evaluations
from ecm_cluster.mmclasses.class_names import names_of
from ecm_cluster.reporting import results
from ecm_cluster.rundir.run import Run
from ecm_cluster.scoring.detection_files import read_shards
from ecm_cluster.scoring.parts import ScoredSet

DIGITS = 3 if importlib.metadata.version("mmdet").startswith("2.25.") else 4  # to which mmdet rounds

pytestmark = pytest.mark.slow
BOXES = """_base_ = {demo!r}
head = dict(type='FasterRCNN', roi_head=dict(mask_roi_extractor=None, mask_head=None, bbox_head=dict(
    num_classes={classes}, loss_cls=dict(_delete_=True, type='CrossEntropyLoss', use_sigmoid=False))))
model = head
train_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', img_scale=(128, 128), keep_ratio=True), dict(type='RandomFlip', flip_ratio=0.5),
    dict(type='Normalize', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True),
    dict(type='Pad', size_divisor=32), dict(type='DefaultFormatBundle'),
    dict(type='Collect', keys=['img', 'gt_bboxes', 'gt_labels'])]
train = dict(pipeline=train_pipeline, **{train!r})
data = dict(train=dict(_delete_=True, **train), val=None, test={test})
evaluation = dict(_delete_=True, interval=1, **{evaluation!r})
runner = dict(max_epochs=1)
"""
PIPELINE = "{{_base_.test_pipeline}}"


def as_coco(data: Path, folder: Path, split: str, text: bool = False) -> dict[str, Any]:
    """A split of the made-up data as a plain COCO dataset of half of the classes."""
    document = json.loads((data / f"annotations/lvis_v1_{split}.json").read_text())
    for image in document["images"]:
        image["file_name"] = image["coco_url"].rpartition("/")[2]
        image["id"] = f"image {image['id']}" if text else image["id"]
    for annotation in document["annotations"]:
        annotation["iscrowd"] = 0
        annotation["image_id"] = f"image {annotation['image_id']}" if text else annotation["image_id"]
    path = folder / f"{split}{text}.json"
    path.write_text(json.dumps(document))
    names = [c["name"] for c in document["categories"]][1::2]
    return {"type": "CocoDataset", "ann_file": str(path), "img_prefix": str(data / f"{split}2017"), "classes": names}


def as_voc(data: Path, folder: Path, split: str) -> dict[str, Any]:
    """A split as Pascal VOC's, its classes under the names of VOC's."""
    document = json.loads((data / f"annotations/lvis_v1_{split}.json").read_text())
    root, classes = folder / "VOC2007", names_of("VOCDataset")
    assert classes is not None
    for name in ("Annotations", "JPEGImages", "ImageSets"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for image in document["images"]:
        objects = ""
        for a in document["annotations"]:
            if a["image_id"] == image["id"]:
                x, y, w, h = a["bbox"]
                objects += (f"<object><name>{classes[a['category_id']]}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}"
                            f"</ymin><xmax>{x + w + 1}</xmax><ymax>{y + h + 1}</ymax></bndbox></object>")
        (root / f"Annotations/{image['id']}.xml").write_text(
            f"<annotation><size><width>{image['width']}</width><height>{image['height']}</height></size>{objects}"
            "</annotation>")
        source = data / f"{split}2017" / image["coco_url"].rpartition("/")[2]
        shutil.copy(source, root / f"JPEGImages/{image['id']}.jpg")
    (root / f"ImageSets/{split}.txt").write_text("".join(f"{image['id']}\n" for image in document["images"]))
    return {"type": "VOCDataset", "ann_file": str(root / f"ImageSets/{split}.txt"), "img_prefix": f"{root}/"}


def run_of(tmp_path: Path, train: dict[str, Any], test: Any, classes: int, **evaluation: Any) -> Run:
    """Trained and scored."""
    config = tmp_path / "config.py"
    shown = repr(test).replace("'PIPELINE'", PIPELINE)
    config.write_text(BOXES.format(demo=str(ROOT / "configs/demo.py"), classes=classes, train=train, test=shown,
                                   evaluation=evaluation))
    verb("submit", "demo", "--config", config, "--runs-dir", tmp_path, "--name", "run", "--gpus", 1, "--scratch",
         tmp_path / "scratch", "--data-root", tmp_path, "--cluster", "local", "--wait")
    return Run(tmp_path / "run")


def mmdets(run: Run, **arguments: Any) -> dict[str, Any]:
    """What mmdet's own evaluation gives for the detections of a run."""
    from mmcv import Config

    from ecm_cluster.node.inference import score_parts, scored_set

    (work,) = (row.work for row in results.rows(run))
    scored = ScoredSet.read(work.scored_set_file)
    assert scored is not None
    found = read_shards(evaluations.chunk_files(work) or [])
    assert len(found) > 50
    dataset, _, _ = scored_set.build(Config.fromfile(str(run.config_file)))
    return dataset.evaluate(score_parts.results_of(scored, found), **arguments)


def test_two_coco_datasets_of_some_classes_are_scored_each_and_as_one(small_data, tmp_path):
    train = as_coco(small_data, tmp_path, "train")
    parts = [{**as_coco(small_data, tmp_path, split, text), "pipeline": "PIPELINE"}
             for split, text in (("train", False), ("val", True))]
    run = run_of(tmp_path, train, parts, 3, metric="bbox")
    (row,) = results.rows(run)
    assert list(row.document["figures"]) == ["bbox", "bbox@0", "bbox@1"]
    theirs = mmdets(run, metric="bbox")
    for number in range(2):
        for name, mine in (("mAP", "AP"), ("mAP_50", "AP50"), ("mAP_l", "APl")):
            value = row.document["figures"][f"bbox@{number}"][mine]
            assert round(-1 if value is None else value, DIGITS) == theirs[f"{number}_bbox_{name}"]
    assert {c["name"] for c in row.document["per_class"]} == set(train["classes"])
    verb("evaluate", run.path, "--vary", "max_dets=5", "--wait")
    assert "max_dets" in results.rows(run)[1].settings
    failed = verb("evaluate", run.path, "--vary", "bootstrap=20", code=2)
    assert "bootstrap: only for datasets that are scored by LVIS's rule" in failed.stderr


def test_voc_is_trained_and_scored_as_mmdet_scores_it(small_data, tmp_path):
    train, test = as_voc(small_data, tmp_path, "train"), as_voc(small_data, tmp_path, "val")
    run = run_of(tmp_path, train, {**test, "pipeline": "PIPELINE"}, 20, metric="mAP")
    (row,) = results.rows(run)
    theirs = mmdets(run, metric="mAP")
    assert row.document["figures"] == {"mmdet": {name: float(value) for name, value in theirs.items()}}
    assert set(theirs) == {"mAP", "AP50"}
    assert "mAP" in verb("evaluate", run.path).stdout


def test_a_failed_evaluation_says_why(small_data, tmp_path):
    test = as_coco(small_data, tmp_path, "val")
    run = run_of(tmp_path, as_coco(small_data, tmp_path, "train"), {**test, "pipeline": "PIPELINE"}, 3, metric="bbox")
    images = sorted((small_data / "val2017").iterdir())
    broken = tmp_path / "broken"
    shutil.copytree(small_data / "val2017", broken)
    config = run.config_file.read_text().replace(str(small_data / "val2017"), str(broken))
    assert str(broken) in config
    run.config_file.write_text(config)
    (broken / images[-1].name).write_bytes(b"")
    done = verb("evaluate", run.path, "--vary", "nms_iou=0.3", "--wait", code=1)
    assert "0 of 1 scored" in done.stderr
    said, _, log = done.stderr.splitlines()[-1].partition("; see ")
    assert f"run: last (nms_iou 0.3) is not scored: rank 0: image {broken / images[-1].name} (id " in said
    assert "the file is empty" in said and "Traceback" in Path(log).read_text()
