"""Bringing a data set from shared storage to a node, with common tools and with a pack.

    python benchmarks/staging.py [--images 3000] [--mean 158.6] [--us 300,1000] [--rounds 5] [--seed 0]
                                 [--folder DIR] [--target DIR] [--json FILE]

Random bytes with the head of a JPEG file, sizes spread by a lognormal law, in ``train2017`` of a data root that has an
annotation file beside it; the same as one tar file; the same as a pack. Shared storage is imitated by a library that
adds latency to what is read below that folder (``slowfs.c``, compiled with ``cc`` for the run); its content is in the
page cache, for all alike. The target is a folder in memory, where there is room. Each way takes its turn in each round,
as a process of its own with its start included, into an empty target, and what arrived is counted; medians count.
``pack`` is what a job does: ``ecm_cluster.staging.copying.stage`` with every checksum, its manifest, fsync and lease.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Dict, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout needs no install

import slow_storage

from ecm_cluster.base import files
from ecm_cluster.pack import manifest
from ecm_cluster.pack.make import Options, pack
from ecm_cluster.staging import copying, reader, scratch

OURS = "pack"
WAYS = {  # shell commands: $S is shared storage, $T an empty folder on the node
    "cp -r": "cp -r $S/root/train2017 $T",
    "rsync -a": "rsync -a $S/root/train2017 $T",
    "tar to tar": "tar -C $S/root -cf - train2017 | tar -C $T -xf -",
    "16 cp at once": "find $S/root/train2017 -type f -print0 | xargs -0 -P16 -n32 cp -t $T",
    "one tar, unpacked": "cp $S/images.tar $T && tar -C $T -xf $T/images.tar && rm $T/images.tar",
    "one tar, left packed": "cp $S/root.pack/images/*.tar $T",
    OURS: '"$PYTHON" "$PROGRAM" --stage $S/root.pack $T/scratch',
    "pack, there already": '"$PYTHON" "$PROGRAM" --stage $S/root.pack $T/scratch',
}
AGAIN = "pack, there already"  # into the target as the way before it left it
Medians = Dict[str, Tuple[float, float]]
ALONE = {OURS: "pack, stage() alone", AGAIN: "there, stage() alone"}  # what these processes take in that call


def make_pack(root: Path) -> None:
    pack(root, Path(f"{root}.pack"), Options(),
         lambda what, total: contextlib.nullcontext(lambda size: None), lambda text: None)


def stage(path: str, base: str) -> None:
    """What a job does on a node, in a process of its own."""
    start, cpu = time.perf_counter(), time.process_time()
    found = manifest.read(path)
    Path(base).mkdir(exist_ok=True)
    copying.stage(found, found.needed([slow_storage.ANNOTATIONS], images=True), scratch.Scratch(Path(base)))
    print(time.perf_counter() - start, time.process_time() - cpu)


def run(command: str, env: dict[str, str]) -> tuple[tuple[float, float], str]:
    """(wall, CPU) seconds of a shell command, and what it says."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    said = subprocess.run(["bash", "-o", "pipefail", "-c", command], check=True, env=env, stdout=subprocess.PIPE,
                          text=True).stdout
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return (wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime), said


def compare(shared: Path, target: Path, library: Path, us: int, rounds: int, total: int) -> Medians:
    """Median (wall, CPU) seconds of each way; ``total`` is what has to arrive, in bytes."""
    env = {**os.environ, "S": str(shared), "T": str(target), "PYTHON": sys.executable,
           "PROGRAM": str(Path(__file__).resolve()), **slow_storage.variables(library, shared, us)}
    took: dict[str, list[tuple[float, float]]] = {name: [] for way in WAYS for name in (way, ALONE.get(way)) if name}
    for turn in range(rounds):
        for name, command in WAYS.items():
            if name != AGAIN:
                shutil.rmtree(target, ignore_errors=True)
                target.mkdir()
            seconds, said = run(command, env)
            took[name].append(seconds)
            if name in ALONE:
                wall, cpu = map(float, said.split())
                took[ALONE[name]].append((wall, cpu))
            if sum(path.stat().st_size for path in target.rglob("*") if path.is_file()) < total:
                raise SystemExit(f"{name}: not everything arrived")
        print(f"round {turn + 1} at {us} us, load {os.getloadavg()[0]:.1f}: "
              + ", ".join(f"{name} {values[-1][0]:.2f}" for name, values in took.items()), file=sys.stderr, flush=True)
    return {name: (statistics.median(v[0] for v in values), statistics.median(v[1] for v in values))
            for name, values in took.items()}


def table(found: Medians, total: int) -> None:
    ours = found[OURS][0]
    print(f"{'':<22}{'seconds':>10}{'MB/s':>10}{'CPU s':>10}{'pack is faster by':>20}")
    for name, (wall, cpu) in found.items():
        copies = name not in (AGAIN, ALONE[AGAIN])
        speed, ratio = (f"{total / 1e6 / wall:.0f}", f"{wall / ours:.2f}") if copies else ("", "")
        print(f"{name:<22}{wall:>10.3f}{speed:>10}{cpu:>10.2f}{ratio:>20}")


# ---------------------------------------------------------------------------------------------- reading


def read_images(kind: str, place: str, pack: str, names: list[str]) -> None:
    """Read all images once, in a process of its own; prints microseconds of wall and of CPU for each."""
    get: Callable[[str], bytes]
    if kind == "files":
        def get(name: str) -> bytes:
            with open(f"{place}/{name}", "rb") as handle:
                return handle.read()
    else:
        get = reader.PackedImages.open(pack, place if place != pack else None).get
    get(names[0])
    wall, cpu = time.perf_counter(), time.process_time()
    for name in names:
        get(name)
    print(1e6 * (time.perf_counter() - wall) / len(names), 1e6 * (time.process_time() - cpu) / len(names))


def reading(shared: Path, target: Path, library: Path, us: list[int], rounds: int) -> dict[str, Any]:
    """Images one by one in random order, from files and from the pack: on the node, and on shared storage."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    shutil.copytree(shared / "root", target / "root")
    pack = manifest.read(shared / "root.pack")
    (target / "scratch").mkdir()
    staged = copying.stage(pack, list(pack.files), scratch.Scratch(target / "scratch"))
    places: dict[str, tuple[Path, Path, dict[str, str]]] = {
        "the node": (target / "root", staged.folder, {})}
    for each in us:
        places[f"shared storage, {each} us"] = (shared / "root", pack.path,
                                                slow_storage.variables(library, shared, each))
    found = {}
    print(f"{'one image, from':<28}{'files, us':>12}{'CPU':>8}{'pack, us':>12}{'CPU':>8}")
    for where, (plain, packed, env) in places.items():
        took: dict[str, list[list[float]]] = {"files": [], "pack": []}
        for _ in range(rounds):
            for kind, place in (("files", plain), ("pack", packed)):
                said = subprocess.run([sys.executable, __file__, "--read", kind, str(place), str(pack.path)],
                                      env={**os.environ, **env}, check=True, capture_output=True, text=True).stdout
                took[kind].append([float(word) for word in said.split()])
        medians = {kind: [statistics.median(v[i] for v in values) for i in (0, 1)] for kind, values in took.items()}
        found[where] = medians
        print(f"{where:<28}" + "".join(f"{medians[kind][0]:>12.0f}{medians[kind][1]:>8.0f}" for kind in took))
    staged.lease.release()
    return found


# ---------------------------------------------------------------------------------------------- the program


def room(args: argparse.Namespace) -> str:
    """A folder in memory, or a temporary one where a copy of the images beside their archive is too much for that."""
    memory, needed = Path("/dev/shm"), 3000 * args.mean * args.images
    if args.target or (memory.is_dir() and shutil.disk_usage(memory).free > needed):
        return args.target or str(memory)
    print(f"{memory} has no room: copying to {tempfile.gettempdir()}, and so at the speed of that")
    return tempfile.gettempdir()


@contextlib.contextmanager
def folders(args: argparse.Namespace) -> Iterator[tuple[Path, Path, Path]]:
    """(shared storage, target, library that slows the first down), removed at the end."""
    with tempfile.TemporaryDirectory(dir=args.folder) as slow, tempfile.TemporaryDirectory(dir=room(args)) as fast, \
            tempfile.TemporaryDirectory() as built:
        yield Path(slow), Path(fast, "target"), slow_storage.build(Path(built))


def packing_seconds(shared: Path, library: Path, us: int) -> tuple[float, float]:
    """(wall, CPU) seconds that the pack takes to be made, with the latency of shared storage."""
    shutil.rmtree(shared / "root.pack", ignore_errors=True)
    return run(f'exec "{sys.executable}" "{Path(__file__).resolve()}" --pack "{shared / "root"}"',
               {**os.environ, **slow_storage.variables(library, shared, us)})[0]


def parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    made.add_argument("--images", type=int, default=3000)
    made.add_argument("--mean", type=float, default=158.6, help="kB of an image on average (default: 158.6)")
    made.add_argument("--us", default="300,1000", help="microseconds of a round trip (default: 300,1000)")
    made.add_argument("--rounds", type=int, default=5, help="turns of each way (default: 5)")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--folder", help="where shared storage is imitated (default: a temporary folder)")
    made.add_argument("--target", help="where the node's disk is imitated (default: in memory, if there is room)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    for inner, count in (("--stage", 2), ("--read", 3), ("--pack", 1)):
        made.add_argument(inner, nargs=count, help=argparse.SUPPRESS)
    return made


def main() -> int:
    args = parser().parse_args()
    if args.stage:
        stage(*args.stage)
    elif args.pack:
        make_pack(Path(args.pack[0]))
    elif args.read:
        kind, place, pack = args.read
        names = [f"train2017/{n:012d}.jpg" for n in range(manifest.read(pack).images)]
        random.Random(0).shuffle(names)
        read_images(kind, place, pack, names)
    else:
        measure(args)
    return 0


def measure(args: argparse.Namespace) -> None:
    us = [int(each) for each in args.us.split(",")]
    with folders(args) as (shared, target, library):
        total = slow_storage.make(shared / "root", args.images, args.mean, args.seed)
        subprocess.run(["tar", "-C", shared / "root", "-cf", shared / "images.tar", "train2017"], check=True)
        os.sync()  # or writing this back would fall into the turn of one of them
        load = os.getloadavg()[0]
        print(f"{args.images} files, {total / 1e6:.0f} MB, {args.rounds} rounds, load {load:.1f}")
        packed, brought = {}, {}
        for each in us:
            packed[each] = wall, cpu = packing_seconds(shared, library, each)
            print(f"packing at {each} us: {wall:.2f} s, CPU {cpu:.2f} s, {total / 1e6 / wall:.0f} MB/s")
        for each in us:
            brought[each] = compare(shared, target, library, each, args.rounds, total)
            print(f"\nbringing it to the node, {each} us a round trip:")
            table(brought[each], total)
        print()
        read = reading(shared, target, library, us, args.rounds)
        print(f"\nload at the end {os.getloadavg()[0]:.1f}")
    if args.json:
        files.write_json(args.json, {"images": args.images, "bytes": total, "load": load, "packing": packed,
                                     "bringing": brought, "reading": read})


if __name__ == "__main__":
    raise SystemExit(main())
