"""Run directories as scored runs leave them, made without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from steering import ended_run

from ecm_cluster.base import files
from ecm_cluster.chain import evaluations
from ecm_cluster.rundir import checkpoints
from ecm_cluster.rundir.run import Run

CLASSES = {"ant": "r", "bee": "c", "cat": "f", "dog": "f"}
ANNOTATIONS = {
    "images": [{"id": 1, "width": 8, "height": 8, "coco_url": "http://images.cocodataset.org/1.jpg", "license": 1,
                "not_exhaustive_category_ids": [], "neg_category_ids": []}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "area": 4.0, "bbox": [0.0, 0.0, 2.0, 2.0],
                     "segmentation": [[0.0, 0.0, 2.0, 0.0, 2.0, 2.0]]}],
    "categories": [{"id": number, "name": name, "frequency": group, "image_count": 1, "instance_count": 1}
                   for number, (name, group) in enumerate(CLASSES.items(), 1)],
}


def scored_run(folder: Path, aps: dict[int, float], annotations: str = "sha256:a", **job: Any) -> Run:
    """A run with a checkpoint for each iteration of ``aps``, each scored with that AP."""
    run = ended_run(folder, **job)
    record = files.read_json(run.run_file)
    files.write_json(run.run_file, {**record, "digests": {"config": "sha256:c", "val_annotations": annotations}})
    run = Run(folder)
    scored = folder / "val.json"
    files.write_json(scored, ANNOTATIONS)
    cv2.imwrite(str(folder / "1.jpg"), np.zeros((8, 8, 3), np.uint8))
    rcnn = "dict(score_thr=0.1, max_per_img=100, nms=dict(iou_threshold=0.5))"
    files.write_text(run.config_file, f"model = dict(test_cfg=dict(rcnn={rcnn}), "
                                      "roi_head=dict(bbox_head=dict(num_classes=4)))\n"
                                      f"data = dict(test=dict(type='LVISFromFile', ann_file={str(scored)!r}, "
                                      f"img_prefix={str(folder)!r}, pipeline=[]))\n")
    for iteration, ap in aps.items():
        manifest = checkpoints.commit(run, 1, lambda f, i=iteration: f.write(b"weights %d" % i), iteration=iteration,
                                      epoch=iteration // 10, position=0, epoch_end=True)
        score(run, manifest, ap)
    return run


def score(run: Run, manifest: checkpoints.Manifest, ap: float, annotations: str | None = None,
          **settings: Any) -> dict[str, Any]:
    """Write the figures of a checkpoint under settings: a class's AP is ``ap`` plus a hundredth of its number."""
    from ecm_cluster.job import eval_settings

    detection, scoring = eval_settings.split(settings)
    work = evaluations.evaluation_of(run, manifest, detection)
    work.path.mkdir(parents=True, exist_ok=True)
    figures = {"AP": ap, "AP50": 2 * ap, "APr": ap / 2, "APc": None, "APf": 1.5 * ap}
    per_class = [{"id": number, "name": name, "frequency": group, "image_count": 3, "instance_count": 10 * number,
                  "bbox": None if name == "dog" else ap + number / 100, "segm": ap}
                 for number, (name, group) in enumerate(CLASSES.items())]
    document = {"format": 1, "figures": {"bbox": figures, "segm": {**figures, "AP": ap / 2}}, "per_class": per_class,
                "max_dets": 300, "provenance": {
                    **{k: v for k, v in checkpoints.describe(manifest).items() if k != "digest"},
                    "checkpoint_digest": manifest.digest, "settings": settings, "annotations": "/data/val.json",
                    "annotations_digest": annotations or run.spec.digests["val_annotations"]}}
    files.write_json(work.metrics_file(evaluations.scoring_variant(scoring)), document)
    return document
