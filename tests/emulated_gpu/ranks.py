"""Trainings by the launcher's own worker on emulated GPUs: each rank is a process with ``train.main`` in it.

The ranks are forked from a server that has imported PyTorch and mmdet on an emulated GPU once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from processes.ranks import SEED
from small import ROOT

from ecm_cluster.job import job as jobs
from ecm_cluster.mmconfig import config
from ecm_cluster.rundir import checkpoints
from ecm_cluster.rundir.run import Run


class Server:
    """Started at once; importing takes it seconds, which the first training waits for."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
        self.process = subprocess.Popen([sys.executable, "-m", "emulated_gpu.server"], cwd=ROOT, text=True,
                                        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1",
                                             "ECM_LOSS_FUSED": "0"},  # kernels are what is not emulated
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, run: Run, attempt: int, world: int, ends_at: int | None = None, evaluate: bool = False,
            **env: str) -> list[int]:
        """Have one process for each rank; their exit codes.

        Args:
            ends_at: The iteration during which one rank gets SIGTERM.
            evaluate: The ranks evaluate the first element instead of training.
            env: What the ranks find in their environment besides.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"run": str(run.path), "attempt": attempt, "world": world,
                                             "ends_at": ends_at, "evaluate": evaluate, "env": env}) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the server has died"
        return json.loads(answer)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)

    def train(self, cfg: dict[str, Any], folder: Path, parts: Sequence[tuple[int, int | None]], virtual: int,
              device: str = "cuda", every: int = 0, **env: str) -> Run:
        """Train in attempts, each of which has to succeed.

        Args:
            folder: For the run directory.
            parts: For each attempt how many processes run it, and the iteration during which one of them gets
                SIGTERM; None: it trains to the end.
            virtual: Ranks that the training is laid out for.
            every: Iterations between checkpoints; 0: none.
            env: As in :meth:`ask`.
        """
        run = make(cfg, folder, virtual, device, every)
        for number, (world, ends_at) in enumerate(parts, 1):
            begin(run, number)
            codes = self.ask(run, number, world, ends_at, **env)
            assert codes == [0 if ends_at is None else 75] * world, f"{codes}\n{said(run)}"
        return run


def make(cfg: dict[str, Any], folder: Path, virtual: int, device: str, every: int = 0) -> Run:
    """A run directory as ``submit`` makes it, as far as a worker reads it."""
    run = Run(folder)
    for made in (run.attempts_dir, run.checkpoints_dir, run.logs_dir):
        made.mkdir(parents=True)
    run.config_file.write_text(config.dump(cfg))
    job = jobs.make({"config": "demo", "gpus": virtual, "seed": SEED, "device": device})
    run.run_file.write_text(json.dumps({
        "name": folder.name, "cluster": "local", "cwd": str(folder), "virtual_ranks": virtual, "threads": 1,
        "checkpoint_every": every, "job": job.as_dict(),
        "annotations": {"test": cfg["data"]["test"]["ann_file"]}, "digests": {"config": ""}}))
    return run


def begin(run: Run, attempt: int) -> None:
    """What a supervisor does before its worker starts."""
    there = [m.file for m in checkpoints.accepted(run)]
    run.attempt_file(attempt).write_text(json.dumps(
        {"number": attempt, "from": there[-1] if there else None, "accepts": there}))


def said(run: Run) -> str:
    """The ends of what the ranks of a run have written, for the report of a failing test."""
    return "\n".join(f"== {p.name}\n{p.read_text(errors='replace')[-6000:]}" for p in sorted(run.path.glob("*.out")))
