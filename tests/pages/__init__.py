"""Runs with everything that a page shows, made without training; and what a page says, read back."""

from __future__ import annotations

import json
import math
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scored import score
from steering import ended_run

from ecm_cluster.base import files
from ecm_cluster.rundir import checkpoints
from ecm_cluster.rundir.run import Run

JPEG = cv2.imencode(".jpg", np.full((2, 2, 3), 128, np.uint8))[1].tobytes()


def full_run(folder: Path, classes: int = 40, points: int = 80, scored: int = 3, seed: int = 0, **job: Any) -> Run:
    """A run of two attempts, the second of which repeats a part of the first, scored and analysed."""
    run = ended_run(folder, attempts=2, **job)
    record = files.read_json(run.run_file)
    files.write_json(run.run_file, {**record, "digests": {"config": "sha256:c0ffee", "val_annotations": "sha256:a"},
                                    "code": {"digest": "sha256:c0de", "packages": {"ecm_cluster": {"commit": "abc123",
                                                                                                  "dirty": True}}},
                                    "versions": {"torch": "2.8.0"}})
    log(run, points, seed)
    for number in range(1, scored + 1):
        iteration = points * 50 * number // scored
        manifest = checkpoints.commit(run, 2, lambda f, i=iteration: f.write(b"weights %d" % i), iteration=iteration,
                                      epoch=number, position=0, epoch_end=True)
        document = score(run, manifest, 0.1 * number)
        rewrite_classes(run, document, classes, seed)
    if scored:
        analyse(run)
    return Run(folder)


def log(run: Run, points: int, seed: int = 0, broken: int = 3) -> None:
    """The logs of two attempts: the second resumes where a tenth of the first one's iterations are to be repeated."""
    noise = random.Random(seed)
    middle, resumed = points // 2, int(points * 0.45)

    def line(at: int, attempt: int) -> dict[str, Any]:
        loss = 0.5 + 3 * math.exp(-3 * at / points) + 0.1 * noise.random() + 1000 * (attempt == 1 and at > resumed)
        return {"mode": "train", "epoch": 1, "iter": 50 * at, "lr": 0.02 * min(1, at / 10), "loss_cls": loss / 2,
                "loss": float("nan") if at == broken else loss, "time": 0.4, "grad_norm": 5.0}

    for attempt, first, last in ((1, 0, middle), (2, resumed, points)):
        header = {"starts_after": 50 * first, "by_epoch": False, "epoch": 0, "position": 50 * first,
                  "iterations_this_epoch": 50 * points, "iterations_per_epoch": 50 * points}
        rows = [header, *(line(at, attempt) for at in range(first + 1, last + 1))]
        files.write_text(run.json_log(attempt), "".join(json.dumps(row) + "\n" for row in rows))


def rewrite_classes(run: Run, document: dict[str, Any], classes: int, seed: int = 0) -> None:
    """As many classes as a data set has, with a long tail of training images, instead of the few."""
    chance = random.Random(seed)
    rows = []
    for number in range(classes):
        images = max(1, int(3000 * (number + 1) ** -1.3)) if classes > 50 else 1 + number * number
        group = "r" if images <= 10 else "c" if images <= 100 else "f"
        ap = document["figures"]["segm"]["AP"] * (0.2 + chance.random())
        rows.append({"id": number, "name": f"class_{number}", "frequency": group, "image_count": images,
                     "instance_count": 2 * images, "segm": 0.0 if number % 11 == 5 else ap, "bbox": ap / 2})
    rows[-1]["segm"] = None
    (work,) = (e for e in run.evaluations() if e.metrics()["provenance"]["iteration"]
               == document["provenance"]["iteration"])
    files.write_json(work.metrics_file(), {**document, "per_class": rows})


def analyse(run: Run, **changed: Any) -> dict[str, Any]:
    """Write an analysis, with a picture, beside the newest scores."""
    work = max(run.evaluations(), key=lambda e: e.metrics()["provenance"]["iteration"])
    errors = {"Cls": 0.051, "Loc": 0.097, "Both": 0.003, "Dupe": 0.009, "Bkg": 0.002, "Miss": 0.123}
    value = {"iou_type": "segm", "tide": {group: {k: v * by for k, v in errors.items()}
                                          for group, by in (("all", 1), ("r", 2), ("c", 1), ("f", 0.5))},
             "confusions": [{"truth": "cat", "predicted": "dog", "count": 7}],
             "calibration": {"ece": 0.0991, "bins": [
                 {"low": k / 10, "high": (k + 1) / 10, "count": 100 - 10 * k, "confidence": (k + 0.5) / 10,
                  "precision": (k + 1) / 11} for k in range(10)]},
             "worst": [{"image": "analysis-00.jpg", "width": 200, "height": 100, "image_id": 17, "missed": 2,
                        "false": 1,
                        "truth": [{"box": [10, 10, 50, 50], "name": "cat", "found": False},
                                  {"box": [90, 10, 50, 50], "name": "cat", "found": False}],
                        "detections": [{"box": [12, 10, 48, 50], "score": 0.876, "name": "dog", "right": False}]}],
             **changed}
    files.write_bytes(work.path / "analysis-00.jpg", JPEG)
    files.write_json(work.analysis_file, value)
    return value


class Page(HTMLParser):
    """What is in a page: its text, its tags with attributes, its charts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" not in self._open and data.strip():
            self.texts.append(data.strip())
            if ("td" in self._open or "th" in self._open) and self.rows and self.rows[-1]:
                self.rows[-1][-1] = f"{self.rows[-1][-1]} {data.strip()}".strip()

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.tags if name in attributes]

    def charts(self) -> list[str]:
        """The text for those who do not see it, of each chart or picture."""
        return [a.get("aria-label", "") for tag, a in self.tags if tag == "svg" and a.get("role") == "img"]
