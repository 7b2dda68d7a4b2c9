"""From the start of a process to its first optimizer step after a requeue: this project's worker and mmdet's own way.

    python benchmarks/starting.py [--ranks 1,2] [--rounds 5] [--before CHECKOUT]

A run is trained to a first checkpoint by the real worker, which a signal ends. Then starts are measured, in turns:
``worker`` is ``ecm_cluster.node.training.worker`` with that checkpoint; ``before`` the same of another checkout;
``mmdet`` what mmdet's ``tools/train.py`` imports and does with ``resume_from``, on a CPU with the additions that
``benchmarks/training.py`` names. All ranks of a start run side by side, and end at their first step.

Parts, in seconds, means over the ranks and medians over the rounds: ``imports`` from the start of Python on; ``data``
staging, data set and loader; ``rendezvous`` the process groups; ``restore`` the checkpoint; ``first`` from there to the
end of the first optimizer step (mmcv sleeps 2 s in it); ``build`` all the rest, above all the model. CPU time counts
all threads, and is what to read on a machine that does other work.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import signal
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
PARTS = ("imports", "data", "rendezvous", "build", "restore", "first")
MARK, BEGAN = "STARTED ", "STARTING_BENCHMARK_BEGAN"


# ------------------------------------------------------------------------------------------ one rank


class Watch:
    """Wall and CPU time of the parts of a start."""

    def __init__(self) -> None:
        self.parts: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    @staticmethod
    def now() -> tuple[float, float]:
        """Since the start of the process."""
        return time.time() - float(os.environ[BEGAN]), time.process_time()

    def add(self, part: str, since: Sequence[float]) -> None:
        for i, (at, before) in enumerate(zip(self.now(), since)):
            self.parts[part][i] += at - before

    def wrap(self, owner: Any, name: str, part: str, after: Callable[[], None] | None = None) -> None:
        call = getattr(owner, name)

        @functools.wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            since = self.now()
            try:
                return call(*args, **kwargs)
            finally:
                self.add(part, since)
                if after:
                    after()

        setattr(owner, name, timed)

    def imported(self) -> None:
        """Imports are done: all time until now that no other part has."""
        others = [sum(times) for times in zip([0.0, 0.0], *self.parts.values())]
        self.add("imports", others)

    def restored(self) -> None:
        self._restored = self.now()

    def stepped(self) -> None:
        """The first step is done, and so is this process."""
        del self.parts["step"]  # which ``first`` holds
        self.add("first", self._restored)
        others = [sum(times) for times in zip(*self.parts.values())]
        self.add("build", others)
        print(MARK + json.dumps(self.parts), flush=True)
        os._exit(0)


def by_worker(watch: Watch, args: argparse.Namespace) -> None:
    from ecm_cluster.node.training import worker

    watch.wrap(worker.staged_data, "prepare", "data")
    join = worker.join

    def joined(*given: Any, **named: Any) -> Any:
        watch.imported()
        from mmcv.runner import OptimizerHook

        from ecm_cluster.node.mmdet_trainer import building

        watch.wrap(building, "loader", "data")
        watch.wrap(OptimizerHook, "after_train_iter", "step", watch.stepped)
        since = watch.now()
        try:
            return join(*given, **named)
        finally:
            watch.add("rendezvous", since)

    worker.join = joined
    watch.wrap(worker, "resume", "restore", watch.restored)
    raise SystemExit(worker.main(args.run, args.attempt))


def by_mmdet(watch: Watch, args: argparse.Namespace) -> None:
    import mmcv  # noqa: F401
    import torch
    from mmcv import Config
    from mmcv.runner import BaseRunner, OptimizerHook
    from mmdet import apis, datasets, models, utils  # noqa: F401

    since = watch.now()
    sys.path.insert(0, str(Path(__file__).parent))
    import peers

    from ecm_cluster.rundir.run import Run

    watch.add("not shown", since)
    cfg = Config.fromfile(str(Run(args.run).config_file))  # with what the config imports
    watch.imported()
    watch.wrap(datasets, "build_dataset", "data")
    watch.wrap(apis.train, "build_dataloader", "data")
    watch.wrap(torch.distributed, "init_process_group", "rendezvous")
    watch.wrap(BaseRunner, "resume", "restore", watch.restored)
    watch.wrap(OptimizerHook, "after_train_iter", "step", watch.stepped)
    run = Run(args.run)
    source = run.read_attempt(args.attempt)["from"]
    peers.mmdets_own(run, peers.place_of(args.rank, int(args.ranks)), cfg, args,
                     resume_from=str(run.checkpoints_dir / source))


# ------------------------------------------------------------------------------------------ starts


def begin(run: Any, ranks: int, source: Path, words: Sequence[str], attempt: int) -> list[subprocess.Popen]:
    """Start all ranks of an attempt, with the code of a checkout."""
    made = []
    for rank in range(ranks):
        env = {**os.environ, "PYTHONPATH": str(source), BEGAN: repr(time.time()), "SUBMITIT_LOCAL_JOB_ID": "benchmark",
               "SUBMITIT_LOCAL_NTASKS": str(ranks), "SUBMITIT_LOCAL_GLOBALID": str(rank),
               "SUBMITIT_LOCAL_LOCALID": str(rank)}
        with open(run.path / f"starting-{attempt}-{rank}.log", "wb") as log:
            which = ["--rank", str(rank)] if "--peer" in words else []
            made.append(subprocess.Popen([sys.executable, *words, *which], cwd=run.path, env=env,
                                         stdout=subprocess.PIPE, stderr=log, text=True))
    return made


def first_checkpoint(run: Any, ranks: int) -> str:
    """Train to a first step, end by a signal, as before a requeue."""
    from peers import begin_attempt

    from ecm_cluster.rundir import checkpoints

    attempt = begin_attempt(run)
    words = ["-m", "ecm_cluster.node.training.worker", str(run.path), str(attempt)]
    processes = begin(run, ranks, ROOT, words, attempt)
    while not run.rendezvous_file(attempt).exists():  # from there on it ends after its first step
        if any(process.poll() for process in processes):
            raise SystemExit(f"the training ended before its first step; see {run.path}")
        time.sleep(0.2)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        process.communicate()
    newest = checkpoints.manifests(run)[-1]
    return newest.file


def measure(run: Any, ranks: int, source: str, args: argparse.Namespace, argv: Sequence[str]) -> None:
    from peers import begin_attempt

    peers = {"worker": ROOT, **({"before": args.before.absolute()} if args.before else {}), "mmdet": ROOT}
    found: dict[str, list[dict[str, list[float]]]] = {peer: [] for peer in peers}
    for number in range(args.rounds + 1):  # the first one fills the page cache
        for peer, code in peers.items():
            attempt = begin_attempt(run, source)
            words = [__file__, *argv, "--peer", peer, "--run", str(run.path), "--ranks", str(ranks), "--attempt",
                     str(attempt)]
            answers = []
            for process in begin(run, ranks, code, words, attempt):
                said = process.communicate()[0]
                line = next((line for line in said.splitlines() if line.startswith(MARK)), None)
                if line is None:
                    raise SystemExit(f"{peer} ended with code {process.returncode}:\n" + (
                        run.path / f"starting-{attempt}-0.log").read_text()[-2000:])
                answers.append(json.loads(line[len(MARK):]))
            if number:
                found[peer].append({part: [statistics.mean(a.get(part, [0, 0])[i] for a in answers) for i in (0, 1)]
                                    for part in PARTS})
    report(found, ranks)


def report(found: dict[str, list[dict[str, list[float]]]], ranks: int) -> None:
    wholes = {peer: [[sum(start[part][i] for part in PARTS) for i in (0, 1)] for start in starts]
              for peer, starts in found.items()}
    for i, kind in ((1, "CPU"), (0, "wall")):
        for peer, starts in found.items():
            whole = statistics.median(times[i] for times in wholes[peer])
            ratio = statistics.median(mine[i] / theirs[i] for mine, theirs in zip(wholes[peer], wholes["mmdet"]))
            parts = [statistics.median(start[part][i] for start in starts) for part in PARTS]
            print(f"| {ranks} | {kind} | {peer} | {ratio:.2f} | {whole:.1f} | "
                  + " | ".join(f"{part:.2f}" for part in parts) + " |", flush=True)


def main() -> int:
    sys.path.insert(0, str(Path(__file__).parent))
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--ranks", default="1,2", help="numbers of ranks (default: 1,2)")
    made.add_argument("--rounds", type=int, default=5, help="starts of each, besides a first one (default: 5)")
    made.add_argument("--before", type=Path, metavar="CHECKOUT", help="another checkout, measured as well")
    for name in ("--peer", "--run"):
        made.add_argument(name, help=argparse.SUPPRESS)
    for name in ("--rank", "--attempt"):
        made.add_argument(name, type=int, help=argparse.SUPPRESS)
    if "--peer" in sys.argv:  # which imports nothing that it does not measure
        for name, kind in (("--device", str), ("--threads", int)):
            made.add_argument(name, type=kind, default={"--device": "cpu", "--threads": 1}[name])
        args, _ = made.parse_known_args()
        (by_mmdet if args.peer == "mmdet" else by_worker)(Watch(), args)
        return 1
    from peers import common_options, prepare

    common_options(made)
    args = made.parse_args()
    print(f"| ranks | | | of mmdet's | whole, s | {' | '.join(PARTS)} |\n|{' --- |' * (5 + len(PARTS))}")
    with tempfile.TemporaryDirectory() as folder:
        for ranks in map(int, args.ranks.split(",")):
            run = prepare(Path(folder), args, ranks)
            measure(run, ranks, first_checkpoint(run, ranks), args, sys.argv[1:])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
