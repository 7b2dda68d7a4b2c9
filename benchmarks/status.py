"""What `status RUN` takes for a run of many ranks and attempts, on a file system that answers after round trips.

    python benchmarks/status.py [--ranks 64] [--attempts 100] [--us 300]

Makes the records that such a run leaves (start, commits, end of each rank in each attempt) with the product's own
writers, as this version lays them out and as the previous one did, and times the command on both.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import slow_storage

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def make(folder: Path, ranks: int, attempts: int, fold: bool) -> None:
    """A run whose attempts all ended by a requeue, the newest still running."""
    with mock.patch.object(os, "fsync"):  # what is measured is reading
        run = importlib.import_module("steering").ended_run(folder, attempts=attempts, iterations=(10, 20))
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
        run.write_heartbeat(attempts, phase="training", iteration=attempts, iterations=10 * attempts, epoch=0)


def measure(folder: Path, shim: Path, us: int, times: int) -> tuple[float, int]:
    """Best wall time in seconds of ``status RUN --json``, and the round trips of one."""
    best, trips = float("inf"), 0
    for _ in range(times):
        counts = shim.parent / "counts"
        counts.unlink(missing_ok=True)
        env = {**os.environ, **slow_storage.variables(shim, folder, us),
               "SLOWFS_COUNT": str(counts), "PYTHONPATH": str(ROOT)}
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "ecm_cluster.status", str(folder), "--json"], env=env, cwd=ROOT,
                              check=True, capture_output=True, text=True)
        best = min(best, time.monotonic() - began)
        assert json.loads(done.stdout)["events"], "it has read the ledger"
        trips = max(int(line.split()[-1]) for line in counts.read_text().splitlines())
    return best, trips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--attempts", type=int, default=100)
    parser.add_argument("--us", type=int, default=300, help="microseconds of a round trip")
    parser.add_argument("--times", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shim = slow_storage.build(Path(folder))
        print(f"{args.ranks} ranks x {args.attempts} attempts, {args.us} us a round trip\n\n"
              "layout | files in the ledger | round trips | seconds\n-- | --: | --: | --:")
        for name, fold in (("folded", True), ("the previous version's, flat", False)):
            run = Path(folder) / name.split()[-1]
            make(run, args.ranks, args.attempts, fold)
            seconds, trips = measure(run, shim, args.us, args.times)
            print(f"{name} | {len(list((run / 'ledger').iterdir()))} | {trips} | {seconds:.2f}", flush=True)


if __name__ == "__main__":
    main()
