"""mmdet's training behind the door of :mod:`.trainable`: mmcv's runner, built from the run's config."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import cv2
import torch
from mmcv.runner import TextLoggerHook, load_checkpoint
from mmcv.runner.hooks import ProfilerHook
from mmcv.utils import logging as mmcv_logging

from mmdet_ext.runners.virtual_ranks import Share

from ...attempts.failures import NotStartable
from .. import staged_data
from ..training.trainable import Trainable, TrainerContext
from . import building, config, rank_buffers

PATIENCE = 20  # optimizer steps in a row, with a loss scaler, which skips a few by design
SCALER = "loss_scaler"  # the attribute of mmcv's hooks for half precision


def make(context: TrainerContext) -> MmdetTrainer:
    """The trainer of the run's config.

    Raises:
        ValueError: The ranks cannot share the run's virtual ranks equally.
    """
    run, place, device = context.run, context.place, context.device
    share = Share(context.virtual_ranks, place.world_size, place.rank)
    cfg = config.load(run)
    staged_data.use(cfg, context.data)
    cv2.setNumThreads(cfg.get("opencv_num_threads", 0))
    if device != "cpu":
        torch.backends.cudnn.benchmark = bool(cfg.get("cudnn_benchmark", False))
    logger = mmdet_logger(context.logger)
    loader, dataset = building.loader(cfg, share, context.seed, device)
    wrapped = building.model(cfg, place, context.seed, device, dataset.CLASSES)
    building.check_heads(cfg, wrapped, dataset, logger)
    meta = {"seed": context.seed, "config_digest": run.spec.digests["config"], "world_size": place.world_size}
    runner = building.runner(cfg, wrapped, str(run.logs_dir), logger, meta, run.log_stamp(context.attempt))
    runner.prepare(context.seed, None, share, dataset)
    return MmdetTrainer(runner, loader, cfg, context.attempt, context.group)


class MmdetTrainer(Trainable):
    """A detector in training: mmcv's runner with a loader."""

    def __init__(self, runner: Any, loader: Any, cfg: Any, attempt: int, group: Any) -> None:
        self.runner, self.loader, self.cfg, self.attempt, self.group = runner, loader, cfg, attempt, group

    # -- how far it is

    @property
    def iteration(self) -> int:
        return self.runner.iter

    @property
    def iterations(self) -> int:
        return self.runner.last_iteration(self.loader.batch_sampler)

    @property
    def epoch(self) -> int:
        return self.runner.epoch

    @property
    def position(self) -> int:
        return self.runner.position

    @property
    def iterations_per_step(self) -> int:
        return self.runner.iterations_per_step

    @property
    def unkept(self) -> Any:
        return self.runner.unkept

    # -- its loss

    @property
    def loss(self) -> Any:
        outputs = getattr(self.runner, "outputs", None)  # not there where an attempt has nothing left to train
        return (outputs.get("log_vars") or {}).get("loss") if isinstance(outputs, dict) else None

    @property
    def patience(self) -> int:
        return PATIENCE if self._is_scaled else 1

    @property
    def _is_scaled(self) -> bool:
        return any(getattr(hook, SCALER, None) is not None for hook in self.runner.hooks)

    def not_finite(self) -> str | None:
        found = super().not_finite()
        if found is not None or self._is_scaled:  # then gradients overflow by design
            return found
        norms = self.runner.log_buffer.val_history.get("grad_norm") or [0.0]
        return None if math.isfinite(norms[-1]) else f"the norm of the gradients was {float(norms[-1])}"

    # -- its state

    def begin(self) -> None:
        load_start(self.runner, self.cfg, self.loader.batch_sampler)
        self._settle()

    def restore(self, state: dict[str, Any], source: str) -> None:
        rank_buffers.restore(self.runner, state, source)
        self._settle()

    def _settle(self) -> None:
        """Make sampler, hooks and the log's header fit where the training stands."""
        runner, sampler = self.runner, self.loader.batch_sampler
        sampler.begin(runner.epoch, runner.position, runner.earlier)
        if runner.iter and any(isinstance(hook, ProfilerHook) for hook in runner.hooks):
            # it counts from the first iteration on; started later, it continues after its end, which torch refuses
            runner.logger.info("ProfilerHook is skipped: it profiles the beginning of a training")
            runner._hooks = [hook for hook in runner.hooks if not isinstance(hook, ProfilerHook)]
        # mmcv's logger writes meta as the first line of the attempt's JSON log
        runner.meta = {**runner.meta, "attempt": self.attempt, "starts_after": runner.iter, "epoch": runner.epoch,
                       "position": runner.position, "iterations_this_epoch": len(sampler),
                       "iterations_per_epoch": sampler.per_epoch,
                       # how log lines count their iterations
                       "by_epoch": self.cfg.runner["type"] == "EpochBasedRunner" and all(
                           hook.by_epoch for hook in runner.hooks if isinstance(hook, TextLoggerHook))}

    def state(self) -> dict[str, Any]:
        own = {"rank_buffers": rank_buffers.gather(self.runner, self.group),
               **rank_buffers.gather_plain(self.runner, self.group)}
        return {**self.runner.state(), **own} if self.runner.rank == 0 else {}

    def train(self, after_step: Callable[[bool], None]) -> None:
        self.runner.boundary = lambda runner, epoch_end: after_step(epoch_end)
        self.runner.run([self.loader], [("train", 1)])


def load_start(runner: Any, cfg: Any, sampler: Any) -> Any:
    """Load what the config's ``resume_from`` or ``load_from`` names; returns what the latter holds.

    Raises:
        NotStartable: ``resume_from`` is not the checkpoint of a training, or nothing is left to train from it on.
    """
    if cfg.get("resume_from"):
        try:
            runner.resume(cfg.resume_from)
        except ValueError as error:
            raise NotStartable(f"resume_from: {error}") from error
        if runner.iter >= runner.last_iteration(sampler):
            raise NotStartable(
                f"resume_from: {cfg.resume_from} is of iteration {runner.iter} (epoch {runner.epoch}), where the "
                "training ends; use load_from for its weights alone, or a later end")
    elif cfg.get("load_from"):
        return load_checkpoint(runner.model, cfg.load_from, map_location="cpu", logger=runner.logger)
    return None


def mmdet_logger(logger: logging.Logger) -> logging.Logger:
    """mmdet's logger, which its modules and hooks use, with the handlers of another one."""
    own = logging.getLogger("mmdet")
    own.handlers, own.propagate = list(logger.handlers), False
    own.setLevel(logger.level)
    # mmcv would add handlers of its own, one of which truncates the file
    mmcv_logging.logger_initialized["mmdet"] = True
    return own
