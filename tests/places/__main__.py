"""``python -m tests.places``: see the package's docstring."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["ECM_CLUSTER_CHECK"] = "none"

import tests.places as package  # noqa: E402
from tests.places import calls as all_calls  # noqa: E402
from tests.places import case, interrupts, judging, places  # noqa: E402


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m tests.places", description=package.__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter,
                                   epilog="exit code: 0 every answer is good, 1 one is not, 2 bad usage")
    made.add_argument("--verb", action="append", default=[], metavar="NAME", help="only these calls; may be repeated")
    made.add_argument("--place", action="append", default=[], metavar="NAME", help="only these places")
    made.add_argument("--interrupts", type=int, default=0, metavar="N", help="instead of places: Ctrl-C at N random "
                      "moments of each call")
    made.add_argument("--seed", type=int, default=1, metavar="S", help="of those moments (default: %(default)s)")
    made.add_argument("--show", action="store_true", help="print what each call said")
    return made


def main() -> int:
    args = parser().parse_args()
    if os.geteuid() != 0:
        parser().error("only root can mount file systems")
    world = case.world_in()
    all_calls.make(world)
    calls = [call for call in all_calls.calls(world) if not args.verb or call.name in args.verb]
    chosen = [place for place in places.PLACES if not args.place or place.name in args.place]
    unknown = set(args.verb) - {c.name for c in calls} | set(args.place) - {p.name for p in chosen}
    if unknown:
        parser().error(f"unknown: {', '.join(sorted(unknown))}")
    bad = number = 0
    try:
        for call in calls if args.interrupts else ():
            if call.name == "demo":
                continue  # it would train for minutes
            for one in interrupts.moments(world, call, args.interrupts, args.seed):
                number, bad = number + 1, bad + bool(one.faults)
                if one.faults or args.show:
                    print(f"{call.name:<18} after {one.seconds:5.2f} s {one.code:>4} {'; '.join(one.faults) or 'good'}")
                    print("".join(f"      | {line}\n" for line in one.err.splitlines()[-8:]), end="", flush=True)
        for call in calls if not args.interrupts else ():
            wells = {user: case.carry_out(world, call, place) for user, place in places.WELL.items()
                     if call.name != "demo" and any(p.user == user for p in chosen)}
            for place in chosen:
                if call.name == "demo" and place.writable:
                    continue  # it would train for minutes
                done = case.carry_out(world, call, place, again=call.acts and call.name != "demo")
                found = judging.faults(done, wells.get(place.user, done))
                number, bad = number + 1, bad + bool(found)
                if found or args.show:
                    print(f"{call.name:<18} {place.name:<22} {done.bad.code:>4} {'; '.join(found) or 'good'}")
                    for text in (done.bad.out[-600:], done.bad.err[-1500:]):
                        print("".join(f"      | {line}\n" for line in text.splitlines()[-8:]), end="", flush=True)
    finally:
        shutil.rmtree(world.parent, ignore_errors=True)
    print(f"{number} cases, {bad} answered badly")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
