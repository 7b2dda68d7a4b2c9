"""A rank's worker process: trains from the newest valid checkpoint, if there is one, to the end.

Started by the supervisor as ``python -m ecm_cluster.node.training.worker RUN ATTEMPT``. Exit codes: 0 the run is
complete; 75 all ranks agreed to stop and committed; 1 anything else, with the reason in the ledger.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from typing import Any, NoReturn

from ...attempts import failures
from ...base import reading
from ...chain import chain, evaluations
from ...mmconfig import literals
from ...rundir import training_log
from ...rundir.run import Run
from .. import heartbeat, signals, staged_data
from ..rendezvous import join, leave
from ..supervise.supervisor import EXIT_STOPPED
from ..supervise.watching import STOPPED
from ..world import Place, identify, node_name
from . import logs


def main(run_path: str, attempt: int) -> int:
    """Train; see the module's docstring for what is returned."""
    run, place = Run(run_path), identify()
    signals.watch(run.stacks_file(attempt, place.rank))
    heartbeat.beat(phase="starting")
    try:
        enter(run)
        data = staged_data.prepare(run, run.job(), run, place, attempt, "train")
        cfg = load_config(run)
        staged_data.use(cfg, data)
        staged_data.await_nodes(run, place, attempt, data)
        return train(run, place, attempt, cfg)
    except BaseException as error:
        record_failure(run, attempt, place.rank, "train", error)
        return 1


def enter(run: Run) -> None:
    """Take up the folder and the thread count of the run; nothing may be imported from the folder."""
    here = {""}
    with contextlib.suppress(FileNotFoundError):  # removed meanwhile
        here.add(os.getcwd())
    sys.path[:] = [p for p in sys.path if p not in here]
    try:
        os.chdir(run.spec.cwd)
    except OSError as error:
        os.chdir(run.logs_dir)
        print(f"warning: {run.spec.cwd}, where the run was submitted: {error.strerror}; what the config names by a "
              "relative path will not be found", file=sys.stderr)
    threads = str(run.spec.threads)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = threads  # read when torch is imported, so before it


def record_failure(work: Any, attempt: int, rank: int, role: str, error: BaseException) -> None:
    """The traceback into the rank's log, and its last line into the ledger as the attempt's end."""
    traceback.print_exc()
    work.ledger(attempt, f"{role}{rank:03d}", patient=True).write(
        "end", **failures.end_of(error, rank), iteration=heartbeat.last().get("iteration"),
        node=node_name(), traceback=traceback.format_exc()[-8000:])


def load_config(run: Run) -> Any:
    """The frozen config, with the modules that it registers imported."""
    from .. import imports

    imports.framework()
    imports.names_of_old_numpy()
    from mmcv import Config
    from mmcv.utils import import_modules_from_strings

    from . import loading

    loading.guard()
    text = reading.read_text(run.config_file)
    cfg = Config(literals.parse(text, run.config_file), f"{run.config_file}\n{text}", str(run.config_file))
    if cfg.get("custom_imports"):
        import_modules_from_strings(**cfg["custom_imports"])
    return cfg


def train(run: Run, place: Place, attempt: int, cfg: Any) -> int:
    """Build everything, restore, run; collective over all ranks of the attempt.

    Args:
        cfg: The run's config, reading from where the data is now.
    """
    # torch and mmdet take seconds to import: the signal handlers stand before
    import cv2
    import torch
    import torch.distributed as dist

    from mmdet_ext.runners.virtual_ranks import Share

    from ..gpu import devices
    from . import mmdet_trainer
    from .step_hook import AgreedStop, Boundary

    spec, job = run.spec, run.job()
    device, seed = job.device, spec.job.seed
    share = Share(chain.virtual_ranks(run), place.world_size, place.rank)
    torch.set_num_threads(spec.threads)
    cv2.setNumThreads(cfg.get("opencv_num_threads", 0))
    group, index = join(place, run.rendezvous_file(attempt), device, timeout=1800.0), 0
    if device == "cuda":
        index = devices.agree(place, torch.cuda.device_count(), group)
        torch.cuda.set_device(index)
        torch.backends.cudnn.benchmark = bool(cfg.get("cudnn_benchmark", False))
    logger = logs.training_logger(run, place.rank)
    if place.rank == 0:
        logger.info("attempt %d: %d ranks on %d nodes, job %s%s", attempt, place.world_size, place.nodes, place.job_id,
                    "" if share.count == 1 else f"; {share.count} batches each for every optimizer step")

    if place.world_size == 1:
        # as in mmdet's own training without a launcher: with a group, each of a step's losses would be reduced over it
        dist.destroy_process_group()
    loader, dataset = mmdet_trainer.loader(cfg, share, seed, device)
    wrapped = mmdet_trainer.model(cfg, place, seed, device, index, dataset.CLASSES)
    mmdet_trainer.check_heads(cfg, wrapped, dataset, logger)
    meta = {"seed": seed, "config_digest": spec.digests["config"], "world_size": place.world_size}
    runner = mmdet_trainer.runner(cfg, wrapped, str(run.logs_dir), logger, meta, run.log_stamp(attempt))

    def max_iterations() -> int:
        return runner.last_iteration(loader.batch_sampler)

    boundary = Boundary(run, attempt, place.rank, place.world_size, group, every=spec.checkpoint_every,
                        minutes=job.checkpoint_minutes, keep=job.keep,
                        max_iterations=max_iterations,
                        also=evaluations.iterations_wanted(run), on_nan=job.on_nan)
    runner.prepare(seed, boundary, share, dataset)
    restore(run, attempt, runner, cfg, loader.batch_sampler, logger)
    heartbeat.beat(phase="first iteration", iteration=runner.iter, iterations=max_iterations(), epoch=runner.epoch)
    try:
        if runner.iter < max_iterations():
            runner.run([loader], [("train", 1)])
        boundary.complete(runner)
        code = 0
    except AgreedStop as stop:
        logger.info("stopped at iteration %d after a signal; %s", runner.iter, stop)
        heartbeat.beat(phase=STOPPED, iteration=runner.iter)  # from here on the supervisor waits a moment only
        code = EXIT_STOPPED
    except Exception:
        heartbeat.beat(phase="failed", iteration=runner.iter)
        raise
    if place.world_size > 1:
        leave(group)
    return code


def restore(run: Run, attempt: int, runner: Any, cfg: Any, sampler: Any, logger: Any) -> None:
    """Resume from the checkpoint that the attempt named; else from the config's ``resume_from`` or ``load_from``."""
    from mmcv.runner import TextLoggerHook
    from mmcv.runner.hooks import ProfilerHook

    from . import loading, rank_buffers

    source = run.read_attempt(attempt)["from"]
    if source is not None:
        state = loading.read(run.checkpoints_dir / source)
        rank_buffers.restore(runner, state, source)
        if runner.rank == 0:
            logger.info("going on from %s: iteration %d, epoch %d, position %d", source, runner.iter, runner.epoch,
                        runner.position)
    else:
        begin(runner, cfg, sampler, logger)
    sampler.begin(runner.epoch, runner.position, runner.former)
    if runner.iter and any(isinstance(hook, ProfilerHook) for hook in runner.hooks):
        # it counts from the first iteration on; begun later, it steps on after its end, which torch does not bear
        runner.logger.info("ProfilerHook is left out: it profiles the beginning of a training")
        runner._hooks = [hook for hook in runner.hooks if not isinstance(hook, ProfilerHook)]
    # mmcv's logger writes meta as the first line of the attempt's JSON log
    runner.meta = {**runner.meta, "attempt": attempt, "starts_after": runner.iter, "epoch": runner.epoch,
                   "position": runner.position, "iterations_this_epoch": len(sampler),
                   "iterations_per_epoch": sampler.per_epoch,
                   # how log lines count their iterations
                   "by_epoch": cfg.runner["type"] == "EpochBasedRunner" and all(
                       hook.by_epoch for hook in runner.hooks if isinstance(hook, TextLoggerHook))}
    if runner.rank == 0:
        for line in training_log.repeated(run, attempt, runner.iter):
            logger.info("%s", line)


def begin(runner: Any, cfg: Any, sampler: Any, logger: Any) -> Any:
    """Begin with what the config's ``resume_from`` or ``load_from`` names; returns what the latter holds.

    Raises:
        NotStartable: ``resume_from`` is no training's checkpoint, or nothing is left to train from it on.
    """
    from mmcv.runner import load_checkpoint

    if cfg.get("resume_from"):
        try:
            runner.resume(cfg.resume_from)
        except ValueError as error:
            raise failures.NotStartable(f"resume_from: {error}") from error
        if runner.iter >= runner.last_iteration(sampler):
            raise failures.NotStartable(
                f"resume_from: {cfg.resume_from} is of iteration {runner.iter} (epoch {runner.epoch}), where the "
                "training ends; give load_from for its weights alone, or a later end")
    elif cfg.get("load_from"):
        return load_checkpoint(runner.model, cfg.load_from, map_location="cpu", logger=logger)
    return None


def end(code: int) -> NoReturn:
    """End this process with a code that a log on a full disk, or a closed one, does not change.

    Not by ``sys.exit``: after a failure of another rank, torch's and NCCL's threads may hang while they are torn down.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    logs.make_output_losable()
    end(main(sys.argv[1], int(sys.argv[2])))
