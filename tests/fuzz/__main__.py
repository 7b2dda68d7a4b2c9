"""``python -m tests.fuzz``: see the package's docstring."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import fuzz  # noqa: E402


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=fuzz.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit code: 0 every answer is good, 1 one is bad (its folder is kept), 2 bad usage")
    made.add_argument("--cases", type=int, default=2000, metavar="N", help="how many (default: %(default)s)")
    made.add_argument("--seed", type=int, default=1, metavar="S", help="of all choices (default: %(default)s)")
    made.add_argument("--only", type=int, metavar="NUMBER", help="run this case alone, and show it whole")
    made.add_argument("--jobs", type=int, default=2, metavar="K", help="cases side by side (default: %(default)s)")
    made.add_argument("--real", action="store_true", help="with --only: run the case by python -m, not in a fork")
    made.add_argument("--folder", type=Path, metavar="DIR",
                      help="where cases lie (default: a temporary folder); those that were answered well are removed")
    made.add_argument("--library", type=Path, metavar="DIR",
                      help="keep the valid input there, and use what is there already (default: new, in --folder)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write every case with a bad answer there")
    made.add_argument("--no-training", action="store_true", help="use a run as trained ones look, made in no time")
    return made


def main() -> int:
    args = parser().parse_args()
    if args.cases < 1 or args.jobs < 1:
        parser().error("--cases and --jobs take 1 or more")
    from fuzz import campaign, library, running

    folder = (args.folder or Path(tempfile.mkdtemp(prefix="fuzz-"))).resolve()
    valid = library.make((args.library or folder / "library").resolve(), trained=not args.no_training)
    if args.only is not None:
        running.prepare()
        shutil.rmtree(folder / str(args.only), ignore_errors=True)
        result, case = campaign.one(args.seed, args.only, folder / str(args.only), valid, args.real)
        show(result, case.work)
        return 1 if result.bad else 0
    began = time.monotonic()
    tally = campaign.run(args.seed, range(1, args.cases + 1), folder, valid, args.jobs)
    library_is = f" --library {args.library}" if args.library else ""
    for result in tally.bad:
        print(f"\n{result.area}: {'; '.join(result.kinds)}\n  {'; '.join(result.bad)}\n"
              f"  python -m tests.fuzz --seed {args.seed} --only {result.number}{library_is}\n"
              f"  {ascii(shlex.join(result.argv))[1:-1][:300]}")
    if args.json:
        args.json.write_text(json.dumps([vars(result) for result in tally.bad], indent=1) + "\n")
    print(f"\n{tally.table()}\n{time.monotonic() - began:.0f} s")
    if tally.bad:
        print(f"cases with bad answers are kept in {folder}")
        return 1
    if args.folder is None:
        shutil.rmtree(folder)
    return 0


def show(result: fuzz.campaign.Result, work: Path) -> None:
    print(f"{result.area}: {'; '.join(result.kinds)}\n\n$ {ascii(shlex.join(result.argv))[1:-1]}\n")
    print(ascii(result.said[:4000]).replace("\\n", "\n")[1:-1])
    print(f"\nexit code {result.code} after {result.seconds:.1f} s, input in {work}")
    print("good" if not result.bad else "BAD: " + "; ".join(result.bad))


if __name__ == "__main__":
    sys.exit(main())
