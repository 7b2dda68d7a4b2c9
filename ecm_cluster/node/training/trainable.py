"""The door between this program and a training framework: what a training must offer to be committed and resumed.

Everything about commits, signals, divergence, heartbeats and logs is written against :class:`Trainable`. A job names
the function that makes one (``trainer: package.module:function``); without it, mmdet's trainer does. The function gets
a :class:`TrainerContext` and is called once per attempt on every rank, after the ranks have met.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from logging import Logger
from typing import Any

from ...mmconfig.config import read_literals
from ...rundir import training_log
from ...rundir.run import Run
from ..world import RankInfo


@dataclass(frozen=True)
class TrainerContext:
    """What a trainer is made from.

    Attributes:
        place: This rank, and how many there are.
        virtual_ranks: Ranks that the run was submitted for; mmdet's trainer alone accepts a number that differs from
            ``place.world_size``.
        device: ``cpu``, or ``cuda:N`` where N is the current device already.
        group: A gloo group over all ranks for small collectives; None where there is one rank, and no process group.
        logger: Writes ``train.log`` on rank 0; elsewhere errors only.
        data: Where staged data is, see :mod:`.staging`; empty for trainers other than mmdet's.
    """

    run: Run
    attempt: int
    seed: int
    place: RankInfo
    virtual_ranks: int
    device: str
    group: Any
    logger: Logger
    data: Any = None

    @property
    def config(self) -> dict[str, Any]:
        """The run's frozen config, in plain dicts."""
        return read_literals(self.run.config_file)

    def log(self, iteration: int, **values: float) -> None:
        """Put figures of an iteration, such as the loss, on record; rank 0's alone are.

        Trackers and reports show them. What a resumed training repeats replaces what is there.
        """
        if self.place.rank == 0:
            training_log.append(self.run, self.attempt, iteration, values)


class Trainable:
    """A training that can be stopped after any optimizer step and resumed from there.

    A trainer derives from it, and gives every property that it needs to change as an attribute of its class
    (``iteration = 0``) or as a property of its own.

    A resumed training is bit-identical if :meth:`state` holds all that the rest depends on; random numbers are best
    drawn from generators seeded by (seed, iteration, rank), so that there is nothing to keep of them.
    """

    @property
    def iteration(self) -> int:
        """Iterations done."""
        raise NotImplementedError

    @property
    def iterations(self) -> int:
        """Where the training is complete."""
        raise NotImplementedError

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return 0

    @property
    def position(self) -> int:
        """Iterations of the current epoch that are done."""
        return self.iteration

    @property
    def iterations_per_step(self) -> int:
        """Iterations that accumulate gradients for one optimizer step."""
        return 1

    @property
    def loss(self) -> Any:
        """The newest loss, the same on all ranks; for the heartbeat, and to detect divergence."""
        return None

    @property
    def patience(self) -> int:
        """Optimizer steps in a row that may not be finite before that counts as divergence."""
        return 1

    @property
    def unkept(self) -> Sequence[str]:
        """Names of what the newest state lacks, for a warning."""
        return ()

    def begin(self) -> None:
        """Start from the beginning: there is no checkpoint of this run."""

    def restore(self, state: dict[str, Any], source: str) -> None:
        """Continue from what :meth:`state` returned, read back onto the CPU; ``source`` is the checkpoint's name."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds: dicts of plain data, tensors and arrays; the tensors are copied by the caller.

        Called on all ranks, so it may use collectives; only rank 0's answer is written. ``meta`` is for entries that
        may be lost without harm, where they are not plain data.
        """
        raise NotImplementedError

    def train(self, after_step: Callable[[bool], None]) -> None:
        """Train from the current iteration to the end.

        Args:
            after_step: To be called after each optimizer step on all ranks, with every counter advanced, and whether
                an epoch has just ended. It ends the training by raising, which must not be caught.
        """
        # the trainer keeps its own loop, as mmcv's runner does, instead of offering one step at a time
        raise NotImplementedError

    def not_finite(self) -> str | None:
        """What is not finite after the newest step, in words (``the loss was nan``), or None."""
        loss = self.loss
        return f"the loss was {loss}" if isinstance(loss, float) and not math.isfinite(loss) else None
