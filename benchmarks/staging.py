"""Bringing a data set to a node: this project against cp, rsync and tar, from shared storage that answers late.

    python benchmarks/staging.py [--files 3000] [--megabytes 476] [--trips 300,1000] [--rounds 3] [--json FILE]

Files of random bytes, their sizes spread from a third to three times the median. ``slowfs.c``, compiled here and loaded
into every program alike, lets names and reads below the source wait for round trips of so many microseconds; nothing
else about the source is slow, it lies in the page cache. The target is in memory, too. What is compared is how the
programs wait for the storage, and what they do beside that:

    stage                 ecm_cluster.staging.copying.stage of a pack: checksums, fsync, rename, manifest
    stage, a process      the same with the start and the end of a Python of its own
    cp -r, rsync -a       of the folder, and so with tar through a pipe
    16 x cp               find and xargs over the files of the folder, 48 to each cp
    cp of a tar, tar -x   an archive, copied and then unpacked at the target
    cp of a tar           the same without unpacking: no image can be read by its name from that

They take turns in one run, and what arrived is looked at each time. Figures are medians of the rounds; MB are 1e6 bytes
of images. After that: packing, a second ``stage`` that finds everything there, and reading images one by one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a checkout needs no install

OURS, PROCESS = "stage", "stage, a process"
IMAGES = "train2017"
# $0 is the folder of images, $1 the archive, $2 the target
PEERS = {
    "cp -r": 'cp -r "$0" "$2"',
    "rsync -a": 'rsync -a "$0" "$2"',
    "tar, a pipe": 'tar -C "$0" -cf - . | tar -C "$2" -xf -',
    "16 x cp": 'find "$0" -type f -print0 | xargs -0 -P16 -n48 cp -t "$2"',
    "cp of a tar, tar -x": 'cp "$1" "$2/one.tar"; tar -C "$2" -xf "$2/one.tar"; rm "$2/one.tar"',
    "cp of a tar": 'cp "$1" "$2"',
}


@dataclass(frozen=True)
class Storage:
    """Shared storage, and the library that makes it slow; ``size`` is the bytes of all images."""

    folder: Path
    shim: Path
    size: int

    @property
    def images(self) -> Path:
        return self.folder / "data" / IMAGES

    @property
    def pack(self) -> Path:
        return self.folder / "data.pack"

    def run(self, trip: int | None, *command: str) -> str:
        """What a program prints that waits so many microseconds for each round trip; None: without the library."""
        slow = {"LD_PRELOAD": str(self.shim), "SLOWFS_BELOW": str(self.folder), "SLOWFS_TRIP_US": str(trip)}
        done = subprocess.run(command, env={**os.environ, **(slow if trip is not None else {})}, cwd=ROOT, text=True,
                              capture_output=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
        return done.stdout

    def child(self, trip: int | None, what: str, *arguments: object) -> dict[str, Any]:
        """What this program answers in a process of its own."""
        return json.loads(self.run(trip, sys.executable, __file__, "--child", what, *map(str, arguments)))


def prepare(folder: Path, files: int, size: float, seed: int) -> Storage:
    """Images, the library and the pack, on the disk and in the page cache."""
    storage = Storage(folder / "shared", folder / "slowfs.so", int(size))
    storage.images.mkdir(parents=True)
    drawn = random.Random(seed)
    shares = [min(3.0, max(1 / 3, drawn.lognormvariate(0, 0.45))) for _ in range(files)]
    for number, share in enumerate(shares):
        (storage.images / f"{number:012d}.jpg").write_bytes(drawn.randbytes(round(size * share / sum(shares))))
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(storage.shim),
                    str(Path(__file__).with_name("slowfs.c")), "-ldl"], check=True)
    pack(storage, 0, storage.pack)
    os.sync()  # or somebody's turn would be spent on writing this back
    return Storage(storage.folder, storage.shim, arrived(storage.images))


def arrived(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def pack(storage: Storage, trip: int, out: Path) -> float:
    """Seconds of ``stage pack``, as a process; one archive whatever its size, since cp and tar are given the same."""
    began = time.perf_counter()
    storage.run(trip, sys.executable, "-m", "ecm_cluster.stage", "pack", str(storage.images.parent), str(out),
                "--shard-size", "1024G")
    return time.perf_counter() - began


def by_peer(storage: Storage, trip: int, line: str, target: Path) -> float:
    """Seconds of a line of shell."""
    archive = next((storage.pack / "images").glob("*.tar"))
    began = time.perf_counter()
    storage.run(trip, "bash", "-ec", f"set -o pipefail; {line}", str(storage.images), str(archive), str(target))
    return time.perf_counter() - began


def child_stage(source: str, scratch: str) -> dict[str, Any]:
    """Stage a pack, as a job does; seconds of reading what it is and of staging it."""
    from ecm_cluster.staging import copying
    from ecm_cluster.staging import pack as packs
    from ecm_cluster.staging.scratch import Scratch

    began = time.perf_counter()
    found = packs.read(source)
    staged = copying.stage(found, found.files, Scratch(Path(scratch)))
    return {"seconds": time.perf_counter() - began, "source": staged.source, "folder": str(staged.folder)}


def child_read(images: str, source: str, folder: str) -> dict[str, Any]:
    """Microseconds for an image, in random order: from a pack and its copy, or where that is empty from plain files."""
    from ecm_cluster.staging.reader import PackedImages

    names = sorted(os.listdir(images))
    random.Random(0).shuffle(names)
    packed = PackedImages.open(source, folder or None) if source else None
    total, began = 0, time.perf_counter()
    for name in names:
        if packed is not None:
            total += len(packed.get(f"{IMAGES}/{name}"))
        else:
            with open(f"{images}/{name}", "rb") as handle:
                total += len(handle.read())
    return {"microseconds": 1e6 * (time.perf_counter() - began) / len(names), "bytes": total}


def copying_turns(storage: Storage, target: Path, trips: list[int], rounds: int) -> dict[int, dict[str, list[float]]]:
    """Seconds of each, at each latency, a round after the other."""
    took: dict[int, dict[str, list[float]]] = {
        trip: {name: [] for name in (OURS, PROCESS, *PEERS)} for trip in trips}
    for number in range(rounds):
        for trip in trips:
            for name in (PROCESS, *PEERS):
                target.mkdir()
                if name == PROCESS:
                    began = time.perf_counter()
                    answer = storage.child(trip, "stage", storage.pack, target)
                    took[trip][PROCESS].append(time.perf_counter() - began)
                    took[trip][OURS].append(answer["seconds"])
                else:
                    took[trip][name].append(by_peer(storage, trip, PEERS[name], target))
                if arrived(target) < storage.size:
                    raise SystemExit(f"{name}: not everything arrived")
                shutil.rmtree(target)
        print(f"round {number + 1} of {rounds} is over", file=sys.stderr, flush=True)
    return took


def other_turns(storage: Storage, target: Path, trips: list[int], rounds: int) -> dict[str, list[float]]:
    """Seconds of packing, milliseconds of finding everything there, microseconds of reading an image."""
    plain = target / "plain"
    target.mkdir()
    copy = storage.child(0, "stage", storage.pack, target)["folder"]
    shutil.copytree(storage.images, plain)
    took: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        took.setdefault(name, []).append(value)

    def read(name: str, trip: int | None, images: Path, *where: object) -> None:
        answer = storage.child(trip, "read", images, *where)
        assert answer["bytes"] == storage.size
        note(f"read an image from {name}, µs", answer["microseconds"])

    for _ in range(rounds):
        read("plain files on the node", None, plain, "", "")
        read("the staged pack", None, plain, storage.pack, copy)
        for trip in trips:
            at = f"at {trip / 1000:g} ms"
            read(f"plain files on shared storage {at}", trip, storage.images, "", "")
            read(f"the pack on shared storage {at}", trip, plain, storage.pack, "")
            began = time.perf_counter()
            answer = storage.child(trip, "stage", storage.pack, target)
            assert answer["source"] == "there"
            note(f"stage again {at}, a process, ms", 1e3 * (time.perf_counter() - began))
            note(f"stage again {at}, ms", 1e3 * answer["seconds"])
            out = storage.folder / "again.pack"
            note(f"pack {at}, MB/s", storage.size / 1e6 / pack(storage, trip, out))
            shutil.rmtree(out)
    shutil.rmtree(target)
    return took


def room_at(asked: Path | None, size: float) -> Path:
    """Where to copy to: a folder in memory, or on a disk where there is no room for what is copied twice."""
    memory = Path("/dev/shm")
    if asked is not None:
        return asked
    if memory.is_dir() and shutil.disk_usage(memory).free > 2.5 * size:
        return memory
    print(f"target: no room in {memory}, so a disk is written to, which is slower and less even")
    return Path(tempfile.gettempdir())


def table(seconds: dict[int, dict[str, float]], size: int) -> None:
    """MB/s of each, and how many times as fast ``stage`` is."""
    cells = "".join(f" MB/s at {trip / 1000:g} ms | stage is faster by | as a process |" for trip in seconds)
    print(f"\n| |{cells}\n| --- |{' --- |' * 3 * len(seconds)}")
    for name in (OURS, PROCESS, *PEERS):
        row = "".join(f" {size / 1e6 / of[name]:.0f} | {of[name] / of[OURS]:.2f} | {of[name] / of[PROCESS]:.2f} |"
                      for of in seconds.values())
        print(f"| {name} |{row}")


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--files", type=int, default=3000, help="how many (default: 3000)")
    parser.add_argument("--megabytes", type=float, default=476, help="of all of them (default: 476)")
    parser.add_argument("--trips", default="300,1000", help="microseconds, several with commas (default: 300,1000)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default: 3)")
    parser.add_argument("--source", type=Path, help="folder to make the shared storage in (default: a temporary one)")
    parser.add_argument("--target", type=Path, help="folder to copy to (default: /dev/shm)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write every figure of every round into this file, too")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        what, *arguments = args.child
        print(json.dumps({"stage": child_stage, "read": child_read}[what](*arguments)))
        return 0
    size, trips = args.megabytes * 1e6, [int(trip) for trip in args.trips.split(",")]
    base = room_at(args.target, size)
    with tempfile.TemporaryDirectory(dir=args.source) as shared, tempfile.TemporaryDirectory(dir=base) as node:
        load = os.getloadavg()[0]
        storage = prepare(Path(shared), args.files, size, args.seed)
        print(f"{args.files} files, {storage.size / 1e6:.0f} MB; target {base}; {os.cpu_count()} processors, load "
              f"{load:.1f} before; medians of {args.rounds} rounds", flush=True)
        copied = copying_turns(storage, Path(node) / "target", trips, args.rounds)
        others = other_turns(storage, Path(node) / "target", trips, args.rounds)
    medians = {trip: {name: statistics.median(s) for name, s in of.items()} for trip, of in copied.items()}
    table(medians, storage.size)
    print("\n| | |\n| --- | --- |")
    for name, values in sorted(others.items()):
        print(f"| {name} | {statistics.median(values):.4g} |")
    if args.json:
        args.json.write_text(json.dumps({"files": args.files, "bytes": storage.size, "target": str(base), "load": load,
                                         "seconds": copied, "others": others}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
