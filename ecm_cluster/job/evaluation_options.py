"""The ``evaluation:`` block of a job file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .option import BOOL, COUNT, EPOCHS, MAPPING, TEXT, TIME, option, options, whole


@dataclass(frozen=True)
class EvaluationOptions:
    """How the checkpoints of a run are scored: the ``evaluation:`` block of a job file.

    Resources that are not given are those of the training.
    """

    enabled: bool = option(True, BOOL, "submit an evaluation behind the training")
    nodes: int = option(0, COUNT, "nodes of the evaluation job; 0: one node")
    gpus: int = option(0, COUNT, "GPUs per node of the evaluation job; 0: as the training")
    partition: str | None = option(None, TEXT, "partition of the evaluation job; default: as the training")
    time: str | None = option(None, TIME, "time limit of the evaluation job; default: as the training")
    epochs: Any = option(None, EPOCHS, "besides the last checkpoint: all, or a list of epochs")
    every: int = option(0, COUNT, "besides the last checkpoint: every n-th epoch, or iteration where the config "
                         "counts those (IterBasedRunner); 0: none")
    settings: dict[str, Any] = option({}, MAPPING, "test settings to try, e.g. {nms_iou: [0.5, 0.6]}: all "
                                      "combinations")
    at_once: int = option(4, whole(1), "evaluations of a run that may be at work at once")
    while_training: bool = option(False, BOOL, "score checkpoints as they are committed, not after the training")


EVALUATION = options(EvaluationOptions)
