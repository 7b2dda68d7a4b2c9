"""``python -m tests.chaos``: see the package's docstring."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("ECM_CLUSTER_HEARTBEAT_SECONDS", "0.3")  # moments are recognised by what a run reports

import chaos  # noqa: E402


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=chaos.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit code: 0 all runs ended as undisturbed ones do, 1 one did not (its folder is kept), 2 bad usage")
    made.add_argument("--kills", type=int, default=20, metavar="N", help="processes to kill (default: %(default)s)")
    made.add_argument("--seed", type=int, default=1, metavar="S", help="of all choices (default: %(default)s)")
    made.add_argument("--ranks", default="1,2,3,4", metavar="N,…",
                      help="numbers of ranks; runs take them in turn, small ones more often (default: %(default)s)")
    made.add_argument("--where", choices=("local", "slurm", "slurm-qos"), default="local",
                      help="local: this machine, without Slurm; slurm: a Slurm that is started for this, with 4 nodes "
                           "(needs Debian's slurm-wlm and munge); slurm-qos: one that preempts by QOS (needs slurmdbd "
                           "and mariadb-server, too) (default: %(default)s)")
    made.add_argument("--jobs", type=int, default=1, metavar="K", help="runs side by side (default: %(default)s)")
    made.add_argument("--folder", type=Path, metavar="DIR",
                      help="where runs are made (default: a temporary folder); runs that ended well are removed")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, rewritten after each run")
    return made


def main() -> int:
    args = parser().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # runs that are under way are cancelled
    try:
        ranks = [int(word) for word in args.ranks.split(",")]
    except ValueError:
        ranks = []
    if not ranks or not set(ranks) <= {1, 2, 3, 4} or args.kills < 1 or args.jobs < 1:
        parser().error("--ranks takes numbers from 1 to 4, with commas; --kills and --jobs at least 1")
    from chaos import campaign, places

    def write_figures(tally: Any) -> None:
        asked = {"seed": args.seed, "where": args.where, "ranks": ranks, "wanted": args.kills}
        if args.json:
            args.json.write_text(json.dumps({**asked, **tally.figures()}, indent=1) + "\n")

    folder = args.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    local = contextlib.nullcontext(places.Local())
    with local if args.where == "local" else places.slurm(by_qos=args.where == "slurm-qos") as place:
        tally = campaign.run(folder.resolve(), place, args.kills, args.seed, ranks, args.jobs, write_figures)
    print(tally.table(), flush=True)
    for run in tally.wrong:
        print(f"\n{run['wrong'].upper()}: {run['folder']}\n{run['detail']}")
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted; the runs that were under way are cancelled")
