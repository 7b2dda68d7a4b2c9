"""The same checkpoint, evaluated on the device and on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from processes.gpu_runs import PATIENCE, begin
from small import await_state, job_flags, verb

from ecm_cluster.chain import evaluations
from ecm_cluster.rundir.run import Run
from ecm_cluster.scoring.detection_files import read_shards
from ecm_cluster.scoring.detections import Detections

SCORE, PIXELS, POINTS = 2e-3, 0.1, 0.01  # of a detection's score, of its box, of an AP between 0 and 1
BEST = 5  # detections of an image that must be found again; near the score threshold one may come or go


def evaluated(data: Path, folder: Path, checkpoint: Path, device: str) -> Run:
    """Score a checkpoint file with the demo's config, in a run of its own."""
    folder.mkdir()
    flags = job_flags(data, folder, "unused")
    verb("evaluate", checkpoint, "--config", "configs/demo.py", "--cluster", "local", "--device", device,
         "--data-root", data, "--runs-dir", folder, "--wait", *flags[flags.index("--set"):], timeout=PATIENCE)
    (run,) = (Run(path) for path in folder.iterdir() if Run(path).run_file.exists())
    return run


def figures(run: Run) -> dict[str, float]:
    (work,) = run.evaluations()
    document = json.loads(work.metrics_file().read_text())
    return {f"{kind} {name}": value for kind, found in document["figures"].items() for name, value in found.items()
            if value is not None}


def detections(run: Run) -> Detections:
    (work,) = run.evaluations()
    return read_shards(evaluations.chunk_files(work) or [])


def unmatched(one: Detections, other: Detections) -> list[str]:
    """The best detections of each image in ``one`` that ``other`` lacks, within the tolerances."""
    lacking = []
    for image in np.unique(one.image_id):
        mine, theirs = (np.flatnonzero(found.image_id == image) for found in (one, other))
        for row in mine[np.argsort(-one.score[mine], kind="stable")][:BEST]:
            near = (np.abs(other.score[theirs] - one.score[row]) <= SCORE) \
                & (np.abs(other.bbox[theirs] - one.bbox[row]).max(axis=1) <= PIXELS) \
                & (other.category_id[theirs] == one.category_id[row])
            if not near.any():
                lacking.append(f"image {image}: score {one.score[row]:.4f}, box {one.bbox[row].round(2).tolist()}")
    return lacking


def test_a_checkpoint_scores_on_the_device_as_on_the_cpu(small_data, tmp_path, device, say):
    trained = begin(small_data, tmp_path, "trained", device, "--no-eval", runner__max_epochs=12)
    await_state(trained, "done", seconds=PATIENCE)
    checkpoint = trained.checkpoints_dir / (trained.completion() or "")
    runs = [evaluated(small_data, tmp_path / name, checkpoint, where)
            for name, where in (("device", device), ("reference", "cpu"))]
    one, other = map(detections, runs)
    assert len(one.score) >= BEST * len(np.unique(one.image_id)), "too few detections to compare"
    assert unmatched(one, other) + unmatched(other, one) == []
    scored, reference = map(figures, runs)
    assert scored.keys() == reference.keys()
    apart = {name: abs(scored[name] - reference[name]) for name in reference}
    say("measured", f"{len(one.score)} detections, {len(other.score)} on the CPU; AP differs by up to "
        f"{max(apart.values()):.1e} (box AP50 {scored['bbox AP50']:.3f})")
    assert max(apart.values()) <= POINTS
