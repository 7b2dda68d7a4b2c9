"""A rank's worker process in a training: from the newest valid checkpoint, if there is one, to the end.

Started by the supervisor as ``python -m ecm_cluster.node.training.worker RUN ATTEMPT``. Exit codes: 0 the run is
complete; 75 all ranks agreed to stop and committed; 1 anything else, with the reason in the ledger.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...base import processes
from ...chain import chain, evaluations
from ...rundir import training_log
from ...rundir.run import Run
from .. import heartbeat, signals, staged_data
from ..rank_process import end, enter, record_failure
from ..rendezvous import join, leave
from ..supervise.supervisor import EXIT_STOPPED
from ..supervise.watching import STOPPED
from ..world import RankInfo, identify
from . import logs

if TYPE_CHECKING:
    from .step_hook import StepHook
    from .trainable import Trainable

COLLECTIVE_SECONDS = 1800.0  # after which a collective gives up; torch's default for gloo


def main(run_path: str, attempt: int) -> int:
    """Train; see the module's docstring for what is returned."""
    run, place = Run(run_path), identify()
    signals.watch(run.stacks_file(attempt, place.rank))
    heartbeat.beat(phase="starting")
    try:
        enter(run)
        data = staged_data.prepare(run, run.job(), run, place, attempt, "train")
        make = trainer_of(run)
        staged_data.await_nodes(run, place, attempt, data)
        return train(run, place, attempt, data, make)
    except BaseException as error:
        record_failure(run, attempt, place.rank, "train", error)
        return 1


def trainer_of(run: Run) -> Callable[..., Trainable]:
    """The function that makes the run's trainer: the one that the job names, else mmdet's.

    Importing it takes seconds, so that comes once the signal handlers are installed and the data is staged; and it
    comes before anything else imports torch.
    """
    module, _, function = (run.job().trainer or processes.MMDET_TRAINER).partition(":")
    return getattr(importlib.import_module(module), function)


def train(run: Run, place: RankInfo, attempt: int, data: Any, make: Callable[..., Trainable]) -> int:
    """Build everything, restore, train; collective over all ranks of the attempt."""
    import torch

    from .step_hook import StepHook
    from .trainable import TrainerContext

    spec, job, virtual = run.spec, run.job(), chain.virtual_ranks(run)
    torch.set_num_threads(spec.threads)
    group, device = meet(run, place, attempt, job.device)
    logger = logs.training_logger(run, place.rank)
    if place.rank == 0:
        batches = virtual // place.world_size
        logger.info("attempt %d: %d ranks on %d nodes, job %s%s", attempt, place.world_size, place.nodes, place.job_id,
                    "" if batches <= 1 else f"; {batches} batches each for every optimizer step")
    trainer = make(TrainerContext(run, attempt, spec.job.seed, place, virtual, device, group, logger, data))
    hook = StepHook(run, attempt, trainer, place, group, logger, every=spec.checkpoint_every,
                    minutes=job.checkpoint_minutes, keep=job.keep, also=evaluations.iterations_wanted(run),
                    on_nan=job.on_nan)
    resume(run, attempt, trainer, hook, logger if place.rank == 0 else None)
    code = carry_out(trainer, hook, logger)
    if group is not None:
        leave(group)
    return code


def meet(run: Run, place: RankInfo, attempt: int, device: str) -> tuple[Any, str]:
    """Join the other ranks; the gloo group over all of them, None for a single one, and this rank's device."""
    import torch
    import torch.distributed as dist

    from ..gpu import devices

    group = join(place, run.rendezvous_file(attempt), device, timeout=COLLECTIVE_SECONDS)
    if device == "cuda":
        index = devices.agree(place, torch.cuda.device_count(), group)
        torch.cuda.set_device(index)
        device = f"cuda:{index}"
    if place.world_size > 1:
        return group, device
    # as in mmdet's own training without a launcher: with a group, each of a step's losses would be reduced over it
    dist.destroy_process_group()
    return None, device


def carry_out(trainer: Trainable, hook: StepHook, logger: Any) -> int:
    """Train to the end, or until the ranks agree to stop; the exit code."""
    from .step_hook import AgreedStop

    heartbeat.beat(phase="first iteration", iteration=trainer.iteration, iterations=trainer.iterations,
               epoch=trainer.epoch)
    try:
        if trainer.iteration < trainer.iterations:
            trainer.train(hook)
        hook.complete()
    except AgreedStop as stop:
        logger.info("stopped at iteration %d after a signal; %s", trainer.iteration, stop)
        heartbeat.beat(phase=STOPPED, iteration=trainer.iteration)  # from here on the supervisor waits a moment only
        return EXIT_STOPPED
    except Exception:
        heartbeat.beat(phase="failed", iteration=trainer.iteration)
        raise
    return 0


def resume(run: Run, attempt: int, trainer: Trainable, hook: StepHook, logger: Any) -> None:
    """Resume from the checkpoint that the attempt named, else start from the beginning; ``logger`` is rank 0's."""
    from . import loading

    source = run.read_attempt(attempt)["from"]
    if source is None:
        trainer.begin()
    else:
        state = loading.read(run.checkpoints_dir / source)
        hook.take_over(state)
        trainer.restore(state, source)
    hook.started_at = trainer.iteration
    if logger is not None:
        if source is not None:
            logger.info("resuming from %s: iteration %d, epoch %d, position %d", source, trainer.iteration,
                        trainer.epoch, trainer.position)
        for line in training_log.repeated(run, attempt, trainer.iteration):
            logger.info("%s", line)


if __name__ == "__main__":
    logs.make_output_losable()
    end(main(sys.argv[1], int(sys.argv[2])))
