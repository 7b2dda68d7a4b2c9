"""The same checkpoint, evaluated on the device and on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from gpu_runs import begin
from small import await_state, job_flags, verb

from ecm_cluster import evaluations
from ecm_cluster.lvis.detections import read_shards
from ecm_cluster.run import Run

SCORE, PIXELS, POINTS = 2e-3, 0.1, 0.01  # of a detection's score, of a box, of an AP between 0 and 1
BEST = 5  # detections of an image that are compared one by one; further down two may swap places


def evaluated(data: Path, folder: Path, checkpoint: Path, device: str) -> Run:
    """Score a checkpoint file with the demo's config, in a run of its own."""
    folder.mkdir()
    flags = job_flags(data, folder, "unused")
    verb("evaluate", checkpoint, "--config", "configs/demo.py", "--cluster", "local", "--device", device,
         "--data-root", data, "--runs-dir", folder, "--wait", *flags[flags.index("--set"):], timeout=400)
    (run,) = (Run(path) for path in folder.iterdir() if Run(path).run_file.exists())
    return run


def figures(run: Run) -> dict[str, dict[str, float]]:
    (work,) = run.evaluations()
    return json.loads(work.metrics_file().read_text())["metrics"]


def detections(run: Run) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Of each image the best scores, and their boxes."""
    (work,) = run.evaluations()
    found = read_shards(evaluations.chunk_files(work) or [])
    best = {}
    for image in np.unique(found.image_id):
        rows = np.flatnonzero(found.image_id == image)
        rows = rows[np.argsort(-found.score[rows], kind="stable")][:BEST]
        best[int(image)] = found.score[rows], np.asarray(found.bbox)[rows]
    return best


def test_a_checkpoint_scores_on_the_device_as_on_the_cpu(small_data, tmp_path, device, say):
    trained = begin(small_data, tmp_path, "trained", device, "--no-eval", runner__max_epochs=12)
    await_state(trained, "done")
    checkpoint = trained.checkpoints_dir / (trained.completion() or {})["checkpoint"]
    runs = [evaluated(small_data, tmp_path / name, checkpoint, where)
            for name, where in (("device", device), ("reference", "cpu"))]
    one, other = map(detections, runs)
    assert one.keys() == other.keys() and one
    apart = max(np.abs(one[i][0] - other[i][0]).max() for i in one)
    say("measured", f"scores of detections differ from the CPU's by up to {apart:.1e}")
    assert apart <= SCORE
