"""What ``status`` takes on a file system that answers after round trips: of one long run, and of many.

    python benchmarks/status.py [--ranks 64] [--attempts 100] [--runs 1000] [--us 300] [--earlier CHECKOUT]

Makes the records that such runs leave (starts, commits, ends of each rank in each attempt, evaluations) with the
product's own writers, folds and shows them, and does the same with the source of another checkout, such as a worktree
of an earlier version.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import slow_storage

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
FOLD = """
import sys, time
from ecm_cluster.reporting import state
from ecm_cluster.rundir.run import Run
state.fold([])
begin = time.monotonic()
state.fold([Run(sys.argv[1])])
print(time.monotonic() - begin)
"""


def make(folder: Path, ranks: int, attempts: int, fold: bool) -> None:
    """A run whose attempts all ended by a requeue, the newest still running; with checkpoints that are scored."""
    steering = importlib.import_module("steering")
    checkpoints = importlib.import_module("ecm_cluster.rundir.checkpoints")
    files = importlib.import_module("ecm_cluster.base.files")
    with mock.patch.object(os, "fsync"):  # what is measured is reading
        run = steering.ended_run(folder, attempts=attempts, iterations=(10, 20))
        run.starts_dir.mkdir()
        for number in range(1, attempts + 1):
            if fold and number > 1:
                run.fold_ledger(number - 1)
            for rank in range(ranks):
                record = run.ledger(number, f"task{rank:03d}", patient=True)
                record.write("start", pid=1, host=f"n{rank // 8}", node=f"n{rank // 8}", rank=rank)
                if rank == 0:
                    run.ledger(number, "train000", patient=True).write(
                        "commit", checkpoint=f"iter_{number:07d}.pth", iteration=number, epoch=0, digest="sha256:0",
                        epoch_end=False, blocked_seconds=0.1, write_seconds=2.0, bytes=1, slowest_step=0.5)
                    record.write("end", cause="preempted", rank=0, next="stay")
                else:
                    record.write("left", rank=rank)
            run.write_heartbeat(number, phase="training", iteration=number, iterations=10 * attempts, epoch=0)
            (run.starts_dir / f"4194304.{number - 1}.json").write_text("".join(
                json.dumps({"kind": kind, "stage": "train", "host": "n0", "nodes": "n[0-7]", "code": 0}) + "\n"
                for kind in ("begin", "end")))
        for epoch in range(12):
            checkpoints.commit(run, attempts, lambda handle: handle.write(b"weights"), iteration=1000 * (epoch + 1),
                               epoch=epoch, position=0, epoch_end=True)
            work = run.evaluation(f"iter_{1000 * (epoch + 1):07d}-0")
            work.path.mkdir(parents=True)
            files.write_json(work.metrics_file(), steering.SCORED)


def make_many(folder: Path, count: int) -> None:
    """Runs that are trained and scored with 1203 classes, and so are to be shown as done."""
    steering = importlib.import_module("steering")
    with mock.patch.object(os, "fsync"):
        steering.done_run(folder / "run0000", classes=1203)
    for number in range(1, count):
        shutil.copytree(folder / "run0000", folder / f"run{number:04d}")


def measure(command: list[str], source: Path, shim: Path, folder: Path, us: int, times: int) -> dict[str, Any]:
    """The best of several calls: wall and CPU seconds; the round trips of the last; what it printed."""
    found: dict[str, Any] = {"wall": float("inf"), "cpu": float("inf")}
    for _ in range(times):
        counts = shim.parent / "counts"
        counts.unlink(missing_ok=True)
        env = {**os.environ, **slow_storage.variables(shim, folder, us), "SLOWFS_COUNT": str(counts),
               "PYTHONPATH": str(source), "COLUMNS": "100"}
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, *command], env=env, cwd=source, check=True, capture_output=True,
                              text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found["wall"] = min(found["wall"], time.monotonic() - began)
        found["cpu"] = min(found["cpu"], after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        found["out"] = min(found.get("out", done.stdout), done.stdout)
        found["trips"] = max(int(line.split()[-1]) for line in counts.read_text().splitlines())
    return found


def of_one(args: argparse.Namespace, folder: Path, shim: Path, sources: dict[str, Path]) -> None:
    print(f"{args.ranks} ranks x {args.attempts} attempts, {args.us} us a round trip\n\n"
          "layout | files in the ledger | source | round trips | fold, seconds | status RUN, seconds\n"
          "-- | --: | -- | --: | --: | --:")
    for name, fold in (("folded", True), ("flat, as the first version's", False)):
        run = folder / name.split(",")[0]
        make(run, args.ranks, args.attempts, fold)
        for title, source in sources.items():
            folded = measure(["-c", FOLD, str(run)], source, shim, folder, args.us, args.times)
            whole = measure(["-m", "ecm_cluster.status", str(run)], source, shim, folder, args.us, args.times)
            print(f"{name} | {len(list((run / 'ledger').iterdir()))} | {title} | {folded['trips']:,} | "
                  f"{float(folded['out']):.2f} | {whole['wall']:.2f}", flush=True)


def of_many(args: argparse.Namespace, folder: Path, shim: Path, sources: dict[str, Path]) -> None:
    print(f"\n{args.runs} runs that are done\n\nsource | round trips | seconds | CPU seconds without latency\n"
          "-- | --: | --: | --:")
    make_many(folder, args.runs)
    time.sleep(31)  # a summary is kept of what has not changed for a while
    command = ["-m", "ecm_cluster.status", "--runs-dir", str(folder)]
    for title, source in reversed(list(sources.items())):  # the earlier version has no summaries and ignores them
        for call in ("first call", "later ones") if source == ROOT else ("every call",):
            slow = measure(command, source, shim, folder, args.us, 1 if call == "first call" else args.times)
            print(f"{title}, {call} | {slow['trips']:,} | {slow['wall']:.2f} | ", end="", flush=True)
            here = measure(command, source, shim, shim.parent / "nowhere", 0, args.times)
            print("" if call == "first call" else f"{here['cpu']:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--attempts", type=int, default=100)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--us", type=int, default=300, help="microseconds of a round trip")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--earlier", type=Path, metavar="CHECKOUT", help="compare with the source there")
    args = parser.parse_args()
    sources = {"this version": ROOT, **({"the earlier version": args.earlier.resolve()} if args.earlier else {})}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shim = slow_storage.build(folder)
        for measured, part in ((of_one, "one"), (of_many, "many")):
            (folder / part).mkdir()
            measured(args, folder / part, shim, sources)


if __name__ == "__main__":
    main()
