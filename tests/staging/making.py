"""Small packs of random bytes, and processes that stage them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from ecm_cluster.base import files
from ecm_cluster.pack import manifest
from ecm_cluster.pack.manifest import ANNOTATIONS, BLOCK, IMAGES, INDEX, INDEX_FILE, Location, Pack, PackedFile

A, B, EMPTY = "images/a-00000.tar", "images/b-00000.tar", "images/c-00000.tar"
SIZES = {A: 2 * BLOCK + 12345, B: BLOCK, EMPTY: 0}  # a short last block, one block exactly, none


def make_pack(folder: Path, sizes: Mapping[str, int] = SIZES) -> Pack:
    """A pack whose images are random bytes; one image in each file is in its index."""
    packed = [_file(folder, name, os.urandom(size), IMAGES, name[7:8]) for name, size in sizes.items()]
    with open(folder / INDEX_FILE, "wb") as handle:
        manifest.write_index(handle, [(f"train2017/{n}.jpg", Location(n, 0, min(f.size, 100), 0))
                                  for n, f in enumerate(packed)])
    packed.append(_file(folder, INDEX_FILE, (folder / INDEX_FILE).read_bytes(), INDEX, ""))
    packed.append(_file(folder, "annotations/a.columns", b"columns of a" * 100, ANNOTATIONS, "annotations/a.json"))
    files.write_json(folder / manifest.MANIFEST, manifest.describe(packed, [], len(sizes)))
    return manifest.read(folder)


def _file(folder: Path, name: str, data: bytes, kind: str, group: str) -> PackedFile:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    blocks = tuple(manifest.checksum(data[at:at + BLOCK]) for at in range(0, len(data), BLOCK))
    return PackedFile(name, len(data), kind, group, blocks)


@contextlib.contextmanager
def in_memory(otherwise: Path) -> Iterator[Path]:
    """A folder in memory, where many an fsync costs nothing; ``otherwise`` where there is none."""
    there = os.access("/dev/shm", os.W_OK)
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if there else otherwise))
    yield folder
    shutil.rmtree(folder)


def is_exact(of: Pack, folder: Path, names: list[str] | None = None) -> bool:
    """Whether the files in ``folder`` are those of the pack, byte by byte, and nothing is half done."""
    wanted = names if names is not None else [f.name for f in of.files]
    return not list(folder.rglob("*.tmp")) \
        and all((folder / name).read_bytes() == (of.path / name).read_bytes() for name in wanted)


STAGE = """
import sys, time
from pathlib import Path
from ecm_cluster.staging import copying, scratch
from ecm_cluster.pack import manifest
found = manifest.read(sys.argv[1])
names = sys.argv[3].split(",") if sys.argv[3] else [f.name for f in found.files]
staged = copying.stage(found, [found.file(n) for n in names], scratch.Scratch(Path(sys.argv[2])), threads=3)
print(staged.source, staged.copied, staged.found, staged.repaired, flush=True)
if sys.argv[4] == "hold":
    sys.stdin.read()
"""


# prints a line when a block was written, and continues after a line of input; no thread gets further meanwhile
PAUSING = """
import sys, threading
from ecm_cluster.base import files
gate, passed = threading.Lock(), []
def pause(name, path=""):
    with gate:
        if name == "block-written" and not passed:
            print("paused", flush=True)
            passed.append(sys.stdin.readline())
files.kill_point = pause
"""


def start_and_pause(of: Pack, base: Path, names: str = "") -> subprocess.Popen:
    """A process that has staged at most three blocks of a pack, and continues after a line of input."""
    process = start(of, base, names, preamble=PAUSING)
    assert process.stdout is not None and process.stdout.readline() == "paused\n"
    return process


def start(of: Pack, base: Path, names: str = "", hold: bool = False, preamble: str = "",
          **env: str) -> subprocess.Popen:
    """A process that stages a pack, and says how; with ``hold`` it keeps the lease until its input ends."""
    root = str(Path(__file__).resolve().parents[2])
    return subprocess.Popen([sys.executable, "-c", preamble + STAGE, str(of.path), str(base), names,
                             "hold" if hold else ""], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                            env={**os.environ, "PYTHONPATH": root, **env})


def stage_in_process(of: Pack, base: Path, names: str = "", preamble: str = "", **env: str) -> tuple[int, list[str]]:
    """(exit status, words it said) of a process that stages a pack."""
    process = start(of, base, names, preamble=preamble, **env)
    said, _ = process.communicate(timeout=120)
    return process.returncode, said.split()
