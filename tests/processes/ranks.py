"""Trainings of a small detector on several ranks, stopped and taken up again; each rank is a forked process.

Ranks are forked from one server that has imported mmdet, so that a training costs its iterations and little else.
Everything except the process group and what happens between the iterations is the launcher's own code.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import traceback
from collections.abc import Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from small import CLASSES, ROOT

from ecm_cluster.mmconfig import config
from ecm_cluster.rundir.run import Run

SEED = 5


def detector(data: Path, loss: str = "ecm", **options: Any) -> dict[str, Any]:
    """The demo config, smaller still; ``options`` are mmdet options with __ for dots."""
    cfg = config.rewrite_data_root(config.read(str(ROOT / "configs/demo.py")), str(data))
    sets = {"model.roi_head.bbox_head.num_classes": CLASSES, "model.roi_head.mask_head.num_classes": CLASSES,
            "data.samples_per_gpu": 1, "runner.max_epochs": 2, "log_config.interval": 2, "lr_config.warmup_iters": 5,
            "model.backbone.base_channels": 8,
            "model.neck.in_channels": [8, 16, 32, 64],
            **{key.replace("__", "."): value for key, value in options.items()}}
    cfg = config.apply_options(cfg, sets)
    cfg["model"]["backbone"]["norm_cfg"] = {"type": "BN"}  # each rank has its own running statistics
    for transform in cfg["data"]["train"]["dataset"]["pipeline"]:
        if transform["type"] == "Resize":
            transform.update(img_scale=(64, 64))
    if loss != "ecm":
        cfg["model"]["roi_head"]["bbox_head"]["loss_cls"] = {
            "ce": {"type": "CrossEntropyLoss"},
            "seesaw": {"type": "SeesawLoss", "num_classes": CLASSES}}[loss]
    return cfg


def train(cfg: dict[str, Any], folder: Path, parts: Sequence[tuple[int, int | None]], virtual: int,
          rescaled: Sequence[int] = ()) -> Run:
    """Train in attempts.

    Args:
        folder: For the run directory.
        parts: For each attempt how many processes run it, and the iteration that it ends after; None: the end.
        virtual: Ranks that the training is laid out for.
        rescaled: Ranks that each attempt after the first lays it out for instead.
    """
    run = Run(folder)
    laid_out = [virtual, *rescaled, *[rescaled[-1] if rescaled else virtual] * len(parts)]
    for made in (run.attempts_dir, run.checkpoints_dir, run.logs_dir):
        made.mkdir(parents=True)
    run.config_file.write_text(config.dump(cfg))
    context = server()
    source = None
    for number, (world, ends_at) in enumerate(parts, 1):
        run.attempt_file(number).write_text(json.dumps({"from": source, "accepts": []}))
        given = (laid_out[number - 1], ends_at)
        ranks = [context.Process(target=run_rank, args=(str(folder), number, rank, world, *given))
                 for rank in range(world)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(120)
        ended = [process.exitcode for process in ranks]
        for process in ranks:
            process.kill()
        assert ended == [0] * world, "\n".join(p.read_text() for p in folder.glob("*.traceback")) or ended
        source = state_file(run, number).name
    return run


@functools.lru_cache(maxsize=None)
def server() -> Any:
    """The server that ranks are forked from; started once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["processes.ranks_in_process"])
    # before Python 3.13 it does not look for modules where this process does
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    forkserver.ensure_running()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
    return context


def state_file(run: Run, attempt: int) -> Path:
    return run.checkpoints_dir / f"end-of-{attempt}.pth"


def notes(run: Run, kind: str) -> list[Any]:
    """What the ranks of all attempts noted down."""
    return [note for path in sorted(run.path.glob(f"*.{kind}.json")) for note in json.loads(path.read_text())]


def run_rank(folder: str, attempt: int, rank: int, world: int, virtual: int, ends_at: int | None) -> None:
    """One rank of one attempt, in a process of its own."""
    code = 1
    try:
        from processes import ranks_in_process

        # as in a rank that Slurm starts: else loader workers come from a server of their own, which outlives them
        multiprocessing.set_start_method("fork", force=True)
        ranks_in_process.run_rank(Run(folder), attempt, rank, world, virtual, ends_at)
        code = 0
    except BaseException:
        Path(folder, f"{attempt}-{rank}.traceback").write_text(traceback.format_exc())
    os._exit(code)
