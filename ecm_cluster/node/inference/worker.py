"""The worker process of a rank in an evaluation: inference on its share of the images; rank 0 then scores.

Started by the supervisor as ``python -m ecm_cluster.node.inference.worker RUN ATTEMPT LINK INDEX CHECKPOINT``.
Detections are written in chunks, atomically; a restart with any number of ranks computes only missing chunks.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ...base import files
from ...base.errors import UserError
from ...chain import evaluations
from ...chain.evaluations import Element
from ...job import eval_settings
from ...mmclasses.evaluation import protocol
from ...mmconfig import config
from ...rundir import checkpoints
from ...rundir.run import Evaluation, Run
from ...scoring.detections import Detections
from ...scoring.parts import ScoredSet
from ...staging import planned
from .. import heartbeat, signals, staged_data
from ..beside import patiently
from ..rank_process import end, enter, record_failure
from ..supervise.supervisor import STORAGE_SECONDS
from ..training import logs
from ..world import RankInfo, device_index, identify

SERVING_SECONDS = 30.0  # that a finished rank still serves staged data to nodes that are copying


def main(run_path: str, attempt: int, link: str, index: int, file: str) -> int:
    """Evaluate the checkpoint of this name, which the supervisor has verified; returns 0 on success."""
    run, place = Run(run_path), identify()
    element = evaluations.read(run, link)[index]
    checkpoint = checkpoints.read(run, file)
    assert checkpoint is not None, "the supervisor has read it"
    work = evaluations.evaluation_of(run, checkpoint, element.settings)
    signals.watch(work.stacks_file(attempt, place.rank))
    heartbeat.beat(phase="starting")
    try:
        enter(run)
        evaluate(run, work, place, attempt, link, element, checkpoint)
        return 0
    except BaseException as error:
        record_failure(work, attempt, place.rank, "evaluate", error)
        return 1


def evaluate(run: Run, work: Evaluation, place: RankInfo, attempt: int, link: str, element: Element,
             checkpoint: evaluations.Manifest) -> None:
    """Inference on this rank's share; on rank 0 also the scoring."""
    if not evaluations.has_detections(work):
        infer(run, work, place, attempt, link, element, checkpoint)
    if place.rank == 0:
        heartbeat.beat(phase="waiting for other ranks")
        while not patiently(partial(evaluations.has_detections, work), STORAGE_SECONDS):
            with contextlib.suppress(OSError):
                os.listdir(work.detections_dir)  # makes an NFS client refresh its directory cache
            time.sleep(0.2)  # no time limit: if another rank fails, the supervisor terminates this one
        missing = [scoring for scoring in element.scoring if work.metrics(evaluations.scoring_variant(scoring)) is None]
        if missing:
            score_all(run, work, element, missing, checkpoint)
        record = work.ledger(attempt, "evaluate000", patient=True)
        record.write("complete", checkpoint=checkpoint.file, iteration=checkpoint.iteration)
        record.write("end", cause="complete", rank=0)


def infer(run: Run, work: Evaluation, place: RankInfo, attempt: int, link: str, element: Element,
          checkpoint: evaluations.Manifest) -> None:
    """Write this rank's missing chunks."""
    job = run.job(link)
    data = staged_data.prepare(run, job, work, place, attempt, "test")
    from ..mmdet_trainer import imports

    imports.framework()  # after copying has started, since it takes seconds
    import torch

    from ..mmdet_trainer import config as mmdet_config
    from .detect import infer as infer_chunks

    torch.set_num_threads(run.threads(link))
    cfg = mmdet_config.load(run)
    staged_data.use(cfg, data)
    eval_settings.apply(cfg, element.settings)
    device = job.device
    if device == "cuda":
        index = device_index(place, torch.cuda.device_count())
        torch.cuda.set_device(index)
        device = f"cuda:{index}"
    counts = class_counts(run, cfg) if element.settings.get("margin") else None
    infer_chunks(cfg, checkpoint.path(run), work, place.rank, place.world_size, device, element.settings, counts,
                 partial(heartbeat.Counter(), phase="inference"))
    staged_data.stop_serving(work, place, attempt, data, SERVING_SECONDS)


def class_counts(run: Run, cfg: Any) -> list[float] | None:
    """Training instances of each class: those frozen into the loss, else those of the training annotations."""
    from mmdet_ext.data.class_counts import ClassCountError, read_class_counts

    frozen = [head["loss_cls"].get("class_counts") for head in eval_settings.box_heads(cfg)]
    source = frozen[0] if frozen and frozen[0] is not None else run.spec.annotations.get("train")
    try:
        return None if source is None else [float(n) for n in read_class_counts(source).counts]
    except ClassCountError as error:
        raise UserError(f"margin: {error}") from None


def score_all(run: Run, work: Evaluation, element: Element, ways: Sequence[Mapping[str, Any]],
              checkpoint: evaluations.Manifest) -> None:
    """Score the detections in every variant; they are read only once."""
    from ...scoring.detection_files import read_shards

    heartbeat.beat(phase="scoring")
    digest = annotations_digest(run)
    found = read_shards(evaluations.chunk_files(work) or [])
    scored = ScoredSet.read(work.scored_set_file)
    if scored is None:  # the detections are of an earlier version
        from . import scored_set

        scored = scored_set.describe(test_set(run))
    for scoring in ways:
        score(run, work, scored, found, digest, element, scoring, checkpoint)


def test_set(run: Run) -> Any:
    """The dataset of ``data.test``, built by mmdet."""
    from ..mmdet_trainer import imports

    imports.framework()
    from ..mmdet_trainer import config as mmdet_config
    from . import scored_set

    return scored_set.build(mmdet_config.load(run))[0]


def annotations_digest(run: Run) -> str | None:
    """Digest of the test annotations; None if the run has no record of them.

    Raises:
        UserError: They have changed since the submission.
    """
    paths = planned.annotation_files(config.read_frozen(run.config_file), "test")
    paths = paths or [path for split, path in run.spec.annotations.items() if split == "test"]
    digest = planned.digest_of_all([files.digest(path) for path in paths])
    recorded = run.spec.digests.get("val_annotations")
    if recorded and digest != recorded:
        raise UserError(f"{' or '.join(paths)}: has changed since {run.name} was submitted; restore the original file")
    return digest


def score(run: Run, work: Evaluation, scored: ScoredSet, found: Detections, digest: str | None, element: Element,
          scoring: Mapping[str, Any], checkpoint: evaluations.Manifest) -> None:
    """Score the detections in one variant; the metrics file is written last and marks completion."""
    from ...reporting.tables import metrics_table, per_class_csv, per_class_table
    from ...scoring import score as scorers
    from . import score_parts

    heartbeat.beat(phase="scoring")
    count, way = heartbeat.Counter(), evaluations.scoring_variant(scoring)
    options: dict[str, Any] = {name: scoring[name] for name in ("max_dets", "scorer", "fixed") if name in scoring}
    options.update(replicates=scoring.get("bootstrap", 0), on_progress=lambda kind, done, total: count(
        done, total, f"scoring {kind}"))
    if scoring.get("min_score"):
        found = found.take(found.score >= scoring["min_score"])
    figures = score_parts.score(scored, found, protocol(config.read_frozen(run.config_file)), options,
                                lambda: test_set(run))
    provenance = {"run": run.name, "checkpoint": checkpoint.file, "iteration": checkpoint.iteration,
                  "epoch": checkpoint.epoch, "checkpoint_digest": checkpoint.digest,
                  "annotations": ", ".join(part.ann_file for part in scored.parts), "annotations_digest": digest,
                  "config_digest": run.spec.digests["config"], "settings": {**element.settings, **scoring},
                  "versions": scorers.versions()}
    document = scorers.metrics_document(figures, provenance)
    table = metrics_table(document)
    print(table)
    files.write_text(work.metrics_file(way, "txt"), table + "\n")
    files.write_text(work.per_class_file(way), per_class_table(document) + "\n")
    files.write_text(work.per_class_file(way, "csv"), per_class_csv(document))
    files.write_json(work.metrics_file(way), document)  # last: with it the variant counts as scored


if __name__ == "__main__":
    logs.make_output_lossy()
    end(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5]))
