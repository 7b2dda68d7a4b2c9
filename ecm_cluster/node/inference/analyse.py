"""The process that writes ``analysis.json`` beside figures; its arguments are a run and keys of its evaluations.

It reads stored detections, without a GPU and, unless they are of an earlier version, without mmdet and torch; it takes
about the time of scoring and less memory. Without a key it takes the evaluation that was scored last of those that
have none, which is the one that has just ended.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmdet_ext.data import image_names

from ...base import files
from ...base.errors import UserError
from ...base.reading import read_bytes
from ...chain import evaluations
from ...mmclasses import datasets
from ...mmconfig import config
from ...rundir.run import Evaluation, Run
from ...scoring.coco import USUAL
from ...scoring.metrics import MAX_DETS, plain_kind
from ...scoring.parts import LVIS, OWN, ScoredSet
from ...staging.reader import PackedImages

SIDE, BYTES = 640, 60_000  # of the pictures
LARGEST_IMAGE = 1 << 28
QUALITIES = (85, 70, 50, 30, 15)


def main(run_path: str, *keys: str) -> int:
    run = Run(run_path)
    works = [run.evaluation(key) for key in keys] if keys else newest_without(run)
    for work in works:
        analyse(run, work)
        print(f"{work.key}: {work.analysis_file}")
    return 0


def newest_without(run: Run) -> list[Evaluation]:
    """The evaluation that was scored last of those without an analysis, in a list; empty if there is none."""
    scored = {}
    for work in run.evaluations():
        with contextlib.suppress(OSError):
            if work.all_metrics() and not work.analysis_file.exists():
                scored[work.path.stat().st_mtime_ns] = work  # the figures are the last that is put there
    return [scored[max(scored)]] if scored else []


def analyse(run: Run, work: Evaluation) -> None:
    """Write the analysis of an evaluation, and the pictures of its worst images that can be read.

    Of several datasets it is that of the first with a rule of LVIS or COCO.

    Raises:
        UserError: Its detections are gone, or nothing that it scores can be analysed.
    """
    from ...analysis import summary
    from ...scoring.checks import read_annotations
    from ...scoring.detection_files import read_shards
    from .worker import annotations_digest, test_set

    if not evaluations.has_detections(work):
        raise UserError(f"{work.path}: has no detections that an analysis could read; score the checkpoint again")
    scored, figures = ScoredSet.read(work.scored_set_file), (work.all_metrics() or [{"figures": {}}])[0]["figures"]
    if scored is None:  # the detections are of an earlier version
        from .scored_set import describe

        scored = describe(test_set(run))
    number = next((n for n, part in enumerate(scored.parts) if part.kind != OWN), None)
    kinds = set(map(plain_kind, figures))
    if number is None or not kinds & {"bbox", "segm"}:
        raise UserError(f"{work.path}: scored by the dataset's own rule; an analysis needs LVIS's or COCO's")
    annotations_digest(run)  # they are those that were scored
    part = scored.parts[number]
    document = part.restrict(read_annotations(part.ann_file))
    found = scored.of_part(number, read_shards(evaluations.chunk_files(work) or []))
    found = part.place_ids(found) if scored.by_position else found
    made = summary.analyse(document, found, "segm" if "segm" in kinds else "bbox", part.kind,
                           MAX_DETS if part.kind == LVIS else USUAL)
    records = {record["id"]: record for record in document["images"]}
    read = image_reader(run, number)
    for at, entry in enumerate(made["worst"]):
        data = read(records[entry["image_id"]])
        picture = None if data is None else small(data)
        if picture is not None:
            files.write_bytes(work.analysis_image(at), picture)
            entry["image"] = work.analysis_image(at).name
    files.write_json(work.analysis_file, made)


def image_reader(run: Run, number: int) -> Callable[[Mapping[str, Any]], bytes | None]:
    """Reads an image of one dataset of ``data.test`` from where the run reads it, by its record; None if it cannot."""
    leaves = datasets.leaves(config.read_frozen(run.config_file), "test")
    leaf = leaves[number] if number < len(leaves) else None
    prefix = leaf.path("img_prefix") if leaf is not None else None
    pack = (run.spec.staging or {}).get("pack")
    packed = PackedImages.open(pack) if pack else None

    def read(record: Mapping[str, Any]) -> bytes | None:
        for name in image_names.candidates(dict(record), leaf.type if leaf is not None else "") if prefix else ():
            path = os.path.join(str(prefix), name)
            with contextlib.suppress(OSError, UserError):
                return packed.get(path) if packed is not None else read_bytes(path, LARGEST_IMAGE)
        return None

    return read


def small(data: bytes) -> bytes | None:
    """An image as a small JPEG, decoded as mmcv decodes it; None if it cannot be."""
    import cv2
    import numpy as np

    with contextlib.suppress(cv2.error):
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            return None
        scale = SIDE / max(image.shape[:2])
        if scale < 1:
            size = [max(1, round(side * scale)) for side in (image.shape[1], image.shape[0])]
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        for quality in QUALITIES:
            picture = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
            if len(picture) <= BYTES:
                break
        return picture
    return None


def run_process(arguments: Sequence[str]) -> int:
    """What the process does: a failure is one line, in the log of what is done afterwards."""
    try:
        return main(*arguments)
    except (UserError, OSError) as error:
        print(f"warning: analysis: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(run_process(sys.argv[1:]))
