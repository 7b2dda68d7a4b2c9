"""The readable log of a training: one file for all attempts, written by rank 0."""

from __future__ import annotations

import logging
import sys

from ..run import Run


def training_logger(run: Run, rank: int) -> logging.Logger:
    """mmdet's logger, which its modules and hooks use: on rank 0 appended to ``train.log``, elsewhere errors only."""
    from mmcv.utils import logging as mmcv_logging

    logger = logging.getLogger("mmdet")
    logger.handlers.clear()
    logger.propagate = False
    form = logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    stream = logging.StreamHandler(sys.stderr)
    handlers: list[logging.Handler] = [stream]
    if rank == 0:
        handlers.append(logging.FileHandler(run.train_log, mode="a"))
    for handler in handlers:
        handler.setFormatter(form)
        logger.addHandler(handler)
    logger.setLevel(logging.INFO if rank == 0 else logging.ERROR)
    # mmcv would add handlers of its own, one of which truncates the file
    mmcv_logging.logger_initialized["mmdet"] = True
    return logger
