"""A rank's worker process in an evaluation: infer this rank's images; rank 0 then scores.

Started by the supervisor as ``python -m ecm_cluster.node.evaluate RUN ATTEMPT``. Each rank's detections are one
shard file, whole or absent; after a restart with the same number of ranks only what is missing is computed.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from .. import chain, files
from ..run import Evaluation, Run, write_heartbeat
from . import preemption
from .train import enter, load_config, record_failure
from .world import Place, device_index, identify


def main(run_path: str, attempt: int) -> int:
    """Evaluate; 0 when this rank's part is done."""
    run, place = Run(run_path), identify()
    work = chain.last_evaluation(run)
    preemption.watch(work.stacks_file(attempt, place.rank))
    write_heartbeat(work, attempt, place.rank, phase="starting")
    try:
        enter(run)
        evaluate(run, work, place, attempt)
        return 0
    except BaseException as error:
        record_failure(work, attempt, place.rank, "evaluate", error)
        return 1


def evaluate(run: Run, work: Evaluation, place: Place, attempt: int) -> None:
    """Inference of this rank's share; on rank 0 also the scores of all."""
    import torch

    torch.set_num_threads(run.spec["threads"])
    cfg = load_config(run)
    infer(run, work, place, attempt, cfg)
    if place.rank == 0:
        shards = [work.shard_file(rank, place.world_size) for rank in range(place.world_size)]
        write_heartbeat(work, attempt, 0, phase="waiting for other ranks")
        await_files(shards)
        write_heartbeat(work, attempt, 0, phase="scoring")
        score(run, work, attempt, shards)


def infer(run: Run, work: Evaluation, place: Place, attempt: int, cfg: Any) -> None:
    """Write this rank's shard, unless a former start did."""
    import torch

    from .inference import infer as infer_shard

    shard = work.shard_file(place.rank, place.world_size)
    if shard.exists():
        return
    device = run.spec["job"]["device"]
    if device == "cuda":
        index = device_index(place, torch.cuda.device_count())
        torch.cuda.set_device(index)
        device = f"cuda:{index}"
    mark = run.completion()
    assert mark is not None
    work.detections_dir.mkdir(parents=True, exist_ok=True)
    infer_shard(cfg, run.checkpoints_dir / mark["checkpoint"], shard, place.rank, place.world_size, device,
                Beat(work, attempt, place.rank))


class Beat:
    """A heartbeat with progress, about once a second."""

    def __init__(self, work: Evaluation, attempt: int, rank: int) -> None:
        self.work, self.attempt, self.rank, self._last = work, attempt, rank, 0.0

    def __call__(self, done: int, total: int, phase: str = "inference") -> None:
        if time.monotonic() - self._last >= 1.0 or done == total:
            self._last = time.monotonic()
            write_heartbeat(self.work, self.attempt, self.rank, phase=phase, done=done, total=total)


def await_files(paths: list[Path]) -> None:
    """Wait until all are there; a rank that fails ends this one through its supervisor, so there is no limit."""
    while not all(p.exists() for p in paths):
        os.listdir(paths[0].parent)  # makes an NFS client look for new names
        time.sleep(0.2)


def score(run: Run, work: Evaluation, attempt: int, shards: list[Path]) -> None:
    """Detections to figures; ``metrics.json`` is written last and means that the evaluation is done."""
    from ..lvis import scoring
    from ..lvis.detections import read_shards
    from ..reporting.tables import metrics_table, per_class_table

    mark = run.completion()
    assert mark is not None
    annotation_file = Path(run.spec["annotations"]["test"])
    beat = Beat(work, attempt, 0)
    figures = scoring.score(annotation_file, read_shards(shards), on_progress=lambda kind, done, total: beat(
        done, total, phase=f"scoring {kind}"))
    provenance = {"run": run.name, **{k: mark[k] for k in ("checkpoint", "iteration", "epoch")},
                  "checkpoint_digest": mark["digest"], "annotations": str(annotation_file),
                  "annotations_digest": files.digest(annotation_file),
                  "config_digest": run.spec["digests"]["config"], "settings": chain.evaluation_settings(run),
                  "versions": scoring.versions()}
    document = scoring.metrics_document(figures, provenance)
    table = metrics_table(document)
    print(table)
    files.write_text(work.table_file, table + "\n")
    files.write_text(work.per_class_file, per_class_table(document) + "\n")
    work.ledger(attempt, "evaluate000").write("complete", **{k: mark[k] for k in ("checkpoint", "iteration")})
    files.write_json(work.metrics_file, document)
    work.ledger(attempt, "evaluate000").write("end", cause="complete", rank=0)


if __name__ == "__main__":
    code = main(sys.argv[1], int(sys.argv[2]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
