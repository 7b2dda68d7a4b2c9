"""Run directories as an ended run leaves them, made without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ecm_cluster.base import files
from ecm_cluster.chain import evaluations
from ecm_cluster.job import job as jobs
from ecm_cluster.rundir import checkpoints
from ecm_cluster.rundir.run import Evaluation, Run

SCORED = {"figures": {}, "max_dets": 300, "per_class": [], "provenance": {"checkpoint": "x", "iteration": 1}}


def ended_run(folder: Path, cluster: str = "local", attempts: int = 1, iterations: tuple[int, ...] = (),
              **job: Any) -> Run:
    """A run whose newest attempt crashed, with a checkpoint of each of ``iterations``, all of attempt 1."""
    run = Run(folder)
    for part in (run.logs_dir, run.attempts_dir, run.checkpoints_dir, run.ledger_dir):
        part.mkdir(parents=True)
    settings = jobs.make({"device": "cpu", "name": run.name, **job}).as_dict()
    run.config_file.write_text("model = {'type': 'MaskRCNN'}\ndata = {'samples_per_gpu': 4}\n"
                               "optimizer = {'type': 'SGD', 'lr': 0.1}\n"
                               "runner = {'type': 'EpochBasedRunner', 'max_epochs': 2}\n")
    files.write_json(run.run_file, {"name": run.name, "run_id": "0", "submitted": 1.0, "cluster": cluster,
                                    "cwd": str(folder), "config": "configs/demo.py", "job": settings})
    run.submission_file("train").parent.mkdir()
    files.write_json(run.submission_file("train"), {"token": "ecm-cluster:t", "cluster": cluster, "job_id": "4194304"})
    for number in range(1, attempts + 1):
        accepts = [m.file for m in checkpoints.accepted(run)]
        record = {"number": number, "host": "elsewhere", "accepts": accepts}
        files.write_json(run.attempt_file(number), record)
        for iteration in iterations if number == 1 else ():
            checkpoints.commit(run, 1, lambda handle: handle.write(b"weights"), iteration=iteration, epoch=0,
                               position=iteration, epoch_end=False)
        run.ledger(number, "task000").write("end", cause="crashed", detail="rank 0: ValueError: x", rank=0)
    return run


def done_run(folder: Path, classes: int = 0) -> Run:
    """A run that is trained, in two attempts, and scored; with a warning and a heartbeat."""
    run = ended_run(folder, attempts=2, iterations=(10, 20, 30))
    last = checkpoints.accepted(run)[-1]
    run.ledger(2, "train000").write("warning", about="speed", text="slow storage")
    run.write_heartbeat(2, phase="training", iteration=30, iterations=30, epoch=1, loss=0.5)
    files.write_json(run.complete_file(2), checkpoints.describe(last))
    work = evaluation_of(run)
    work.path.mkdir(parents=True)
    per_class = [{"id": number, "name": f"class {number}", "frequency": "f", "image_count": 200, "instance_count": 900,
                  "bbox": 0.25, "segm": 0.25} for number in range(1, classes + 1)]
    files.write_json(work.metrics_file(), {**SCORED, "figures": {"bbox": {"AP": 0.25}}, "per_class": per_class})
    return Run(folder)


def evaluation_of(run: Run) -> Evaluation:
    """That of a complete run's last checkpoint."""
    work = evaluations.of_element(run, evaluations.Element(evaluations.LAST, {}))
    assert work is not None
    return work
