"""The steps of a check, with the functions that a rank uses: one training step, a checkpoint, a test image.

Modules that import mmdet are imported inside the steps, so that a failure of mmdet becomes a finding.
"""

from __future__ import annotations

import contextlib
import copy
import os
import traceback
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch
from mmcv.runner.hooks import LoggerHook, TextLoggerHook

from mmdet_ext.data.samples import NamedSubset
from mmdet_ext.runners.virtual_ranks import Share

from ...checking.findings import Findings
from ...rundir.run import Run
from .. import rank_process, staged_data
from ..mmdet_trainer import config as mmdet_config
from ..mmdet_trainer.batches import collate, unpack
from ..training import saver
from ..training.logs import training_logger
from ..world import RankInfo
from . import blame, needs, small


class Stop(Exception):
    """A failure was found, so nothing else can be checked."""


class Skip(Exception):
    """A step that cannot be checked here; the text says why."""


class _StepDone(Exception):
    """The training has taken its one step."""


@dataclass
class Bench:
    """The parts that the steps have built so far."""

    run: Run
    place: RankInfo
    out: Findings
    on_cpu: bool
    cfg: Any = None
    dataset: Any = None
    loader: Any = None
    wrapped: Any = None
    runner: Any = None
    batch: Any = None
    size: tuple[int, int, int] | None = None  # images of the batch, height, width, before it was reduced
    state: Any = None

    @property
    def device(self) -> str:
        return "cpu" if self.on_cpu else self.run.job().device


def all_of(run: Run, place: RankInfo, out: Findings, on_cpu: bool) -> None:
    """Run all steps.

    Raises:
        Stop: One has failed; the findings have the reason.
    """
    bench = Bench(run, place, out, on_cpu)
    rank_process.enter(run)
    for step, key, take in (
            ("imports", "custom_imports", imports), ("training data", "data.train", training_data),
            ("model", "model", model), ("optimizer, hooks and runner", "optimizer", runner),
            ("load_from", "load_from", load_from), ("a batch", "data.train.pipeline", a_batch),
            ("forward and backward", "model", a_step), ("a checkpoint written and read", "model", a_checkpoint),
            ("a test image", "data.test", a_test_image)):
        out.begin(step)
        try:
            detail = take(bench)
        except Skip as why:
            out.skip(step, str(why))
        except Exception as error:
            reason = blame.not_here(error, on_cpu, run.job().device)
            if reason is None:
                out.fail(blame.line(error, key, bench.cfg, run), traceback.format_exc())
                raise Stop from None
            out.skip(step, reason)
            if step in ("imports", "training data", "model", "optimizer, hooks and runner"):
                break
        else:
            out.done(step, detail)
    out.end()


def imports(bench: Bench) -> str:
    """The modules in ``custom_imports``."""
    bench.cfg = mmdet_config.load(bench.run)
    if bench.on_cpu:
        torch.set_num_threads(min(2, os.cpu_count() or 1))
    cv2.setNumThreads(0)
    staged_data.use(bench.cfg, small.unstaged(bench.run))
    return ", ".join((bench.cfg.get("custom_imports") or {}).get("imports") or [])


def training_data(bench: Bench) -> str:
    """The dataset and the order of its loader."""
    from ..mmdet_trainer import building

    cfg = bench.cfg
    cut = small.cut_annotations(cfg, Path(bench.run.path).parent) if bench.on_cpu else ""
    small.load_here(cfg, bench.on_cpu)
    bench.loader, bench.dataset = building.loader(cfg, Share(1, 1, 0), bench.run.spec.job.seed, bench.device)
    return f"{len(bench.dataset):,} samples{cut}"


def model(bench: Bench) -> str:
    """The detector with its initial weights."""
    from ..mmdet_trainer import building

    if bench.device == "cuda":
        torch.cuda.set_device(0)
    bench.wrapped = building.model(copy.deepcopy(bench.cfg), bench.place, bench.run.spec.job.seed,
                                   "cuda:0" if bench.device == "cuda" else bench.device, bench.dataset.CLASSES)
    return needs.parameters(bench.wrapped)


def runner(bench: Bench) -> str:
    """Optimizer, hooks and runner; loggers for external services are built but not run."""
    from ..mmdet_trainer import building
    from ..mmdet_trainer.trainer import mmdet_logger

    run = bench.run
    logger = mmdet_logger(training_logger(run, 0))
    building.check_heads(bench.cfg, bench.wrapped, bench.dataset, logger)
    meta = {"seed": run.spec.job.seed, "config_digest": run.spec.digests["config"], "world_size": 1}
    bench.runner = building.runner(copy.deepcopy(bench.cfg), bench.wrapped, str(run.logs_dir), logger, meta,
                                   run.log_stamp(1))
    hooks = bench.runner._hooks
    hooks[:] = [h for h in hooks if isinstance(h, TextLoggerHook) or not isinstance(h, LoggerHook)]
    count = len(hooks)
    if bench.on_cpu and run.job().device == "cuda":
        bench.runner.register_hook(small.Float32(), "LOWEST")
    bench.runner.prepare(run.spec.job.seed, partial(_boundary, bench), Share(1, 1, 0))
    return f"{type(bench.runner.optimizer).__name__}, {count} hooks"


def _boundary(bench: Bench, made: Any, epoch_end: bool) -> None:
    bench.state = made.state()
    raise _StepDone


def load_from(bench: Bench) -> str | None:
    """The weights from ``resume_from`` or ``load_from``."""
    from ..mmdet_trainer.trainer import load_start

    content = load_start(bench.runner, bench.cfg, bench.loader.batch_sampler)
    return needs.fitting(content, bench.runner, bench.cfg.load_from) if content is not None else None


def a_batch(bench: Bench) -> str:
    """The first batch of the first epoch, through the whole pipeline."""
    bench.batch = next(iter(bench.loader))
    bench.size = small.size(bench.batch)
    return f"{bench.size[0]} images of {bench.size[1]}×{bench.size[2]}" if bench.size else ""


def a_step(bench: Bench) -> str:
    """Hooks, forward, backward and optimizer, as the runner calls them, up to the first optimizer step."""
    if not bench.on_cpu:
        return _step(bench, bench.batch)
    batch = small.shrink(bench.batch)
    if batch is None:
        raise Skip("the batch cannot be scaled down, and at full size it may take minutes on a CPU")
    try:
        return _step(bench, batch)
    except Exception as error:
        if small.size(batch) == bench.size or not _may_be_of_size(bench, error):
            raise
        bench.out.doubt(f"it fails with smaller images ({blame.short(error)})")
    model(bench)  # again: the failed step may have changed the model and the hooks
    runner(bench)
    load_from(bench)
    return _step(bench, bench.batch)


def _may_be_of_size(bench: Bench, error: BaseException) -> bool:
    return blame.may_be_of_size(error) and blame.not_here(error, bench.on_cpu, bench.run.job().device) is None


def _step(bench: Bench, batch: Any) -> str:
    if bench.on_cpu:
        small.few_samples(bench.wrapped)
    with needs.watching(bench) as watched, contextlib.suppress(_StepDone):
        bench.runner.run([small.RepeatedBatch(bench.loader, batch)], [("train", 1)])
    for text in needs.unused(bench.wrapped, bench.cfg, bench.run.spec.virtual_ranks):
        bench.out.warn(text)
    bench.out.needs(watched.describe(batch))
    size = small.size(batch)
    loss = float(bench.runner.outputs["loss"].detach())
    return f"loss {loss:.4g}" + (f" at {size[1]}×{size[2]}" if size else "")


def a_checkpoint(bench: Bench) -> str:
    """The state after that step, written and read back like a checkpoint."""
    if bench.state is None:
        raise Skip("there was no training step")
    size, lost = needs.round_trip({**bench.state, "rank_buffers": []})
    saver.require_essentials(lost)
    if lost:
        bench.out.warn(f"checkpoints will not contain {saver.listed(lost)}, which a restart will lose; "
                       f"{saver.PLAIN_DATA}")
    return size


def a_test_image(bench: Bench) -> str | None:
    """An image of the test set, through its pipeline and the model."""
    if not bench.run.job().evaluation.enabled:
        return None
    from ..inference import detect, scored_set

    dataset, _, _ = scored_set.build(bench.cfg)
    scored = scored_set.describe(dataset)
    full = collate([NamedSubset(dataset, [0])[0]], 1)
    sizes = [small.shrink(full), full] if bench.on_cpu else [full]
    if sizes[0] is None:
        return f"{len(dataset):,} images; not passed to the model"
    bench.wrapped.eval()  # for good: this is the last step
    for data in sizes:
        try:
            with torch.no_grad():
                _, named = unpack((), data, bench.wrapped.device)
                result = bench.wrapped.module(return_loss=False, rescale=True, **named)[0]
            break
        except Exception as error:
            if not bench.on_cpu or not _may_be_of_size(bench, error):
                raise
            why = blame.short(error)
    else:  # not a failure: random weights may predict boxes anywhere
        raise Skip(f"the untrained model fails on it ({why})")
    detect.columns_at(scored, 0, result)
    return f"{len(dataset):,} images"
