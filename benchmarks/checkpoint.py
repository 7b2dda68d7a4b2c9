"""Checkpoints: how long the training stands still for one, and how long until it is on the disk.

    python benchmarks/checkpoint.py [--megabytes 400] [--repeats 5] [--threads 2] [--folder DIR] [--device cpu]

Side by side in one run: this project's copy and writer process, mmcv's ``save_checkpoint``, ``torch.save``, and
``async_save`` of torch.distributed.checkpoint (which writes a folder, and no digest). All save the same state, weights
and momentum of a stack of linear layers. They take turns, so that another load on the machine falls on all alike;
figures are medians of the turns. "blocked" is the time until the caller has control again and may change its
tensors; "written" is the time until the checkpoint is on the disk, for this project after fsync, rename, digest and
manifest, which the others do not do. The first turn of each, in which memory is allocated, is shown apart.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Tuple

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout needs no install

from ecm_cluster.base import files  # noqa: E402
from ecm_cluster.node.training.saver import Saver  # noqa: E402
from ecm_cluster.rundir.run import Run  # noqa: E402

Turn = Callable[[int], Tuple[float, float]]  # number of the turn -> seconds blocked, seconds until written


def trained(megabytes: int, device: str) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A model whose weights and momentum take so much memory, after one step."""
    side = 724  # a layer of 2.1 MB, the size of a convolution of ResNet-50
    layers = max(1, round(megabytes * 1e6 / 2 / (4 * side * (side + 1))))
    model = torch.nn.Sequential(*(torch.nn.Linear(side, side) for _ in range(layers))).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for p in model.parameters():
        p.grad = torch.rand_like(p)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return model, optimizer


def ours(folder: Path, state: Any) -> tuple[Turn, Callable[[], None]]:
    run = Run(folder / "run")
    run.attempts_dir.mkdir(parents=True)
    files.create_exclusive(run.attempt_file(1), json.dumps({"number": 1, "accepts": []}))
    saver = Saver(run, 1, 1, run.ledger(1, "train000"), logging.getLogger("benchmark"))

    def turn(number: int) -> tuple[float, float]:
        began = time.perf_counter()
        saver.commit(state, iteration=number, epoch=0, position=number, epoch_end=False)
        blocked = time.perf_counter() - began
        saver.settle(wait=True)
        assert saver.failure is None, saver.failure
        return blocked, time.perf_counter() - began

    return turn, saver.writer.close


def blocking(save: Callable[[Path], Any], target: Path) -> Turn:
    def turn(number: int) -> tuple[float, float]:
        began = time.perf_counter()
        save(target)
        seconds = time.perf_counter() - began
        return seconds, seconds

    return turn


def async_save(folder: Path, state: Any) -> Turn:
    from torch.distributed import checkpoint as dcp

    def turn(number: int) -> tuple[float, float]:
        target = folder / "dcp"
        shutil.rmtree(target, ignore_errors=True)
        began = time.perf_counter()
        future = dcp.async_save(state, checkpoint_id=target)
        blocked = time.perf_counter() - began
        future.result()
        return blocked, time.perf_counter() - began

    return turn


def measure(turns: dict[str, Turn], repeats: int, device: str) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in turns}
    for number in range(1, repeats + 2):
        for name, turn in turns.items():
            os.sync()  # nobody pays for what another has left in the page cache
            if device == "cuda":
                torch.cuda.synchronize()
            found[name].append(turn(number))
    return found


def report(found: dict[str, list[tuple[float, float]]]) -> None:
    print(f"{'':<30}{'blocked':>10}{'first':>10}{'written':>10}{'blocked, of mmcv':>19}")
    base = statistics.median(blocked for blocked, _ in found["mmcv save_checkpoint"][1:])
    for name, turns in found.items():
        blocked, written = (statistics.median(column) for column in zip(*turns[1:]))
        print(f"{name:<30}{blocked * 1e3:>7.0f} ms{turns[0][0] * 1e3:>7.0f} ms{written * 1e3:>7.0f} ms"
              f"{f'1/{base / blocked:.1f}':>19}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5, help="turns besides the first")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=None, help="where to write; a new folder in it is used")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    from mmcv.runner import save_checkpoint

    model, optimizer = trained(args.megabytes, args.device)
    state = {"meta": {"iter": 1}, "state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        own, close = ours(folder, state)
        turns = {
            "ecm_cluster": own,
            "mmcv save_checkpoint": blocking(lambda p: save_checkpoint(model, str(p), optimizer), folder / "mmcv.pth"),
            "torch.save": blocking(lambda p: torch.save(state, p), folder / "torch.pth"),
            "checkpoint.async_save": async_save(folder, state),
        }
        found = measure(turns, args.repeats, args.device)
        close()
    print(f"{args.megabytes} MB of state on {args.device}, {args.threads} threads, torch {torch.__version__}, "
          f"median of {args.repeats} turns")
    report(found)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
