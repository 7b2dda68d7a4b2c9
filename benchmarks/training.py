"""Seconds per iteration: this project's worker against mmdet's own ``train_detector``.

    python benchmarks/training.py [--ranks 1,2] [--iterations 4] [--rounds 25]
    python benchmarks/training.py --device cuda --ranks 1 --config configs/ecm/mask_rcnn_r50_1x.py --classes 1203 \\
        --image-size 1333 --size 1333x800 --train-images 200

Both train the same config on the same images from the same weights, with the same seed, threads and number of ranks.
``worker`` is ``ecm_cluster.node.training.worker`` as a job runs it, with its process group, its hook after each
step, heartbeats, and commits as often as a job makes them by default; ``mmdet`` is ``mmdet.apis.train_detector`` with
its logger and its checkpoints after each epoch. Both teams of processes live side by side and take turns of
``--iterations`` iterations, so that another load on the machine falls on both alike; every other round the other one is
first. A figure is the median over the rounds, a ratio the median of the rounds' ratios; the first round, in which
memory is allocated and DDP lays out its buckets, is left out. On a machine with other work read the CPU times, which
count all threads of a rank.

Each number of ranks is measured twice: with data loading, and with batches that were loaded before ("compute"), the
same for both. The parts are wall time of the Python thread that trains: on a GPU, whose work is asynchronous, they say
where that thread waits, and only the whole is a time of the GPU's.

Two things stand between mmdet 2.28 and a fair comparison on a CPU: its ``build_ddp`` accepts GPUs alone, and mmcv's DDP
without device ids leaves batches in their containers. On a CPU ``build_ddp`` is replaced by mmcv's DDP plus the
``scatter`` that mmcv itself uses for a CPU; on GPUs nothing is replaced.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a checkout needs no install

from peers import (  # noqa: E402
    Preloaded,
    begin_alike,
    begin_attempt,
    common_options,
    mmdets_own,
    place_of,
    preload,
    prepare,
    settings,
)

from ecm_cluster.rundir.run import Run  # noqa: E402

PEERS = ("worker", "mmdet")
PARTS = ("data", "seeding", "forward", "backward", "optimizer", "hooks", "boundary")
MARK = "MEASURED "


# ------------------------------------------------------------------------------------------ one rank


def gate(args: argparse.Namespace) -> Any:
    """A hook that lets the training run in turns: a line on stdin begins one, its figures go to stdout."""
    import torch
    from mmcv.runner import HOOKS, Hook

    spent: dict[str, float] = defaultdict(float)
    began = [0.0, 0.0]  # wall and CPU time

    def timed(name: str, call: Callable[..., Any], less: Sequence[str] = ()) -> Callable[..., Any]:
        def wrapper(*values: Any, **named: Any) -> Any:
            entered, inner = time.perf_counter(), sum(spent[other] for other in less)
            try:
                return call(*values, **named)
            finally:
                if began[0] <= entered:  # not what waited for its turn
                    spent[name] += time.perf_counter() - entered - sum(spent[other] for other in less) + inner
        return wrapper

    class Gate(Hook):
        left = 0

        def before_run(self, runner: Any) -> None:
            runner.model.train_step = timed("forward", runner.model.train_step)
            torch.Tensor.backward = timed("backward", torch.Tensor.backward)  # type: ignore[method-assign]
            runner.optimizer.step = timed("optimizer", runner.optimizer.step)
            runner.call_hook = timed("hooks", runner.call_hook, ("backward", "optimizer"))
            for name, part in (("boundary", "boundary"), ("_seed_step", "seeding")):
                if getattr(runner, name, None) is not None:
                    setattr(runner, name, timed(part, getattr(runner, name)))

        def before_train_iter(self, runner: Any) -> None:
            if args.device == "cuda" and self.left == 0:
                torch.cuda.synchronize()
            if self.left == 0:
                self.change_turns()
            self.left -= 1

        def change_turns(self) -> None:
            whole, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
            print(MARK + json.dumps({**spent, "data": whole - sum(spent.values()), "whole": whole, "cpu": cpu}),
                  flush=True)
            if not sys.stdin.readline():
                os._exit(0)
            self.left = args.iterations
            spent.clear()
            began[:] = time.perf_counter(), time.process_time()

    HOOKS.register_module(module=Gate)
    return {"type": "Gate", "priority": "HIGHEST"}


def run_rank(args: argparse.Namespace) -> None:
    """Be one rank of one peer, until stdin ends."""
    from ecm_cluster.node import rank_process, staged_data
    from ecm_cluster.node.mmdet_trainer import config
    from ecm_cluster.node.training import worker

    run, place = Run(args.run), place_of(args.rank, int(args.ranks))
    rank_process.enter(run)
    cfg = settings(config.load(run), run, args.size)
    cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), gate(args)]
    batches = preload(cfg, place, 0, args.device) if args.compute else None
    if args.peer == "worker":
        from ecm_cluster.node.mmdet_trainer import building, trainer

        if batches:
            make = building.loader
            building.loader = lambda *given: (Preloaded((made := make(*given))[0], batches), made[1])  # type: ignore
        config.load = lambda run: cfg
        worker.train(run, place, args.attempt, staged_data.Data(), trainer.make)
    else:
        mmdets_own(run, place, cfg, args, batches)


# ------------------------------------------------------------------------------------------ the turns


class Team:
    """The ranks of one peer; they wait on their stdin between turns."""

    def __init__(self, peer: str, run: Run, ranks: int, compute: bool, argv: Sequence[str]) -> None:
        attempt = str(begin_attempt(run))
        self.processes: list[subprocess.Popen[str]] = []
        self.logs = [run.path / f"{peer}-{attempt}-{rank}.log" for rank in range(ranks)]
        for rank in range(ranks):
            words = [sys.executable, __file__, *argv, "--peer", peer, "--run", str(run.path), "--rank", str(rank),
                     "--ranks", str(ranks), "--attempt", attempt, *(["--compute"] if compute else [])]
            with open(self.logs[rank], "wb") as log:
                self.processes.append(subprocess.Popen(words, cwd=run.path, stdin=subprocess.PIPE,
                                                       stdout=subprocess.PIPE, stderr=log, text=True))
        self.answers()  # all have come to their first iteration

    def answers(self) -> dict[str, float]:
        """The mean over the ranks of what a turn took."""
        found: dict[str, float] = defaultdict(float)
        for process, log in zip(self.processes, self.logs):
            assert process.stdout is not None
            line = next((line for line in process.stdout if line.startswith(MARK)), None)
            if line is None:
                self.end()
                raise SystemExit(f"{log.name}: a rank ended with code {process.wait()}\n{log.read_text()[-2000:]}")
            for name, value in json.loads(line[len(MARK):]).items():
                found[name] += value
        return {name: value / len(self.processes) for name, value in found.items()}

    def turn(self) -> dict[str, float]:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        return self.answers()

    def end(self) -> None:
        for process in self.processes:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        for process in self.processes:
            process.wait()


def measure(run: Run, ranks: int, compute: bool, args: argparse.Namespace, argv: Sequence[str]) -> None:
    # mmdet's team first: the worker commits at an epoch's end, which a stale attempt may not
    teams = {peer: Team(peer, run, ranks, compute, argv) for peer in reversed(PEERS)}
    rounds: dict[str, list[dict[str, float]]] = {peer: [] for peer in PEERS}
    for number in range(args.rounds + 1):
        for peer in PEERS[::-1] if number % 2 else PEERS:
            took = teams[peer].turn()
            if number:
                rounds[peer].append(took)
    for team in teams.values():
        team.end()
    report(rounds, f"{ranks} {'rank' if ranks == 1 else 'ranks'}, {'compute' if compute else 'with data'}",
           args.iterations)


def report(rounds: dict[str, list[dict[str, float]]], what: str, iterations: int) -> None:
    for peer, turns in rounds.items():
        ratios = [statistics.median(turn[time] / base[time] for turn, base in zip(turns, rounds["mmdet"]))
                  for time in ("whole", "cpu")]
        parts = [statistics.median(turn.get(part, 0.0) for turn in turns) / iterations * 1e3
                 for part in ("whole", "cpu", *PARTS)]
        print(f"| {what} | {peer} | " + " | ".join([f"{ratio:.3f}" for ratio in ratios] + [
            f"{part:.1f}" for part in parts]) + " |", flush=True)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--ranks", default="1,2", help="numbers of ranks (default: 1,2)")
    made.add_argument("--iterations", type=int, default=4, help="of a turn (default: 4)")
    made.add_argument("--rounds", type=int, default=25, help="turns of each, besides the first (default: 25)")
    common_options(made)
    for name in ("--peer", "--run"):
        made.add_argument(name, help=argparse.SUPPRESS)
    for name in ("--rank", "--attempt"):
        made.add_argument(name, type=int, help=argparse.SUPPRESS)
    made.add_argument("--compute", action="store_true", help=argparse.SUPPRESS)
    return made


def main() -> int:
    args = parser().parse_args()
    if args.peer:
        run_rank(args)
        return 0
    print(f"| | | wall, of mmdet's | CPU, of mmdet's | wall, ms | CPU, ms | {' | '.join(PARTS)} |\n"
          f"|{' --- |' * (6 + len(PARTS))}")
    with tempfile.TemporaryDirectory() as folder:
        for ranks in map(int, args.ranks.split(",")):
            run = prepare(Path(folder), args, ranks)
            begin_alike(run)
            for compute in (False, True):
                measure(run, ranks, compute, args, sys.argv[1:])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
