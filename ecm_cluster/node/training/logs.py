"""The readable log of a training: one file for all attempts, written by rank 0."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from typing import Any

from ...rundir.run import Run


class _Losable(io.FileIO):
    """A log that may be on a full disk, or one over its quota, which is no reason to end a training."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def make_output_losable() -> None:
    """Have no ``print`` of this process, and of those that it forks, fail: whatever the disk, whatever the locale."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        with contextlib.suppress(OSError):  # closed
            raw: Any = _Losable(number, "w", closefd=False)
            setattr(sys, name, io.TextIOWrapper(raw, "utf-8", "backslashreplace", write_through=True))


def training_logger(run: Run, rank: int, name: str = "ecm_cluster.training") -> logging.Logger:
    """The logger of this name: on rank 0 appended to ``train.log``, elsewhere errors only."""
    logger = logging.getLogger(name)
    logger.handlers.clear()
    logger.propagate = False
    form = logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if rank == 0:
        handlers.append(logging.FileHandler(run.train_log, mode="a", encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(form)
        logger.addHandler(handler)
    logger.setLevel(logging.INFO if rank == 0 else logging.ERROR)
    return logger
