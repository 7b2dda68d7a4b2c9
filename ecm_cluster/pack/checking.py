"""Is a pack right? Every byte of it is read once: blocks, images, headers, annotations; and the originals if asked.

Covered: what pack.json, the index and the archives say of each other, and, with the data root that the pack was made
of, that both hold the same bytes under the same names. Not covered: whether a picture can be decoded.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Tuple

from ..base import files
from ..base.reading import Unreadable, open_regular
from . import shards
from .checksums import Digesting
from .pack import BLOCK, INDEX, INDEX_FILE, Index, Location, Pack, PackedFile, checksum
from .sources import THREADS, Source, scan

Placed = Tuple[Location, str]


@dataclass
class Findings:
    """What is wrong with a pack, one line each; and how much was looked at.

    Attributes:
        bytes: Of the pack that were read.
        compared: Files of the data root that were compared.
    """

    problems: list[str] = field(default_factory=list)
    bytes: int = 0
    compared: int = 0


def verify(pack: Pack, advance: Callable[[int], None], threads: int = THREADS) -> Findings:
    """Check everything that a pack says of itself.

    Args:
        advance: Told the bytes of each block that was read.
    """
    found, lock = Findings(), threading.Lock()
    images = pack.image_files()
    placed = _placed(pack, found.problems)
    tasks = []
    for number, packed in enumerate(images):
        entries = placed.get(number, [])
        if entries or placed:
            found.problems += _gaps(packed, entries)
        tasks += list(_by_block(packed, entries))
    tasks += [(packed, block, []) for packed in pack.files if packed not in images
              for block in range(len(packed.blocks))]
    with ExitStack() as opened:
        descriptors = _open(pack, opened, found.problems)

        def one(task: tuple[PackedFile, int, list[Placed]]) -> None:
            packed, block, entries = task
            fd = descriptors.get(packed.name)
            problems = [] if fd is None else _check_block(fd, packed, block, entries)
            size = packed.span(block)[1]
            advance(size)
            with lock:
                found.problems += problems
                found.bytes += size

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(one, tasks))
    for a in pack.annotations:
        found.problems += _check_annotation(pack.path, a.name, a.digest)
    found.problems.sort()
    return found


def _open(pack: Pack, opened: ExitStack, problems: list[str]) -> dict[str, int]:
    """A descriptor of each file that is there; a size other than recorded is a problem."""
    found = {}
    for packed in pack.files:
        try:
            fd = open_regular(pack.path / packed.name)
        except (OSError, Unreadable) as error:
            problems.append(f"{packed.name}: cannot be read ({getattr(error, 'strerror', None) or error})")
            continue
        opened.callback(os.close, fd)
        found[packed.name] = fd
        size = os.fstat(fd).st_size
        if size != packed.size:
            problems.append(f"{packed.name}: has {size} bytes, {packed.size} were packed")
    return found


def _placed(pack: Pack, problems: list[str]) -> dict[int, list[Placed]]:
    """The images of each file in the order of their places, by the index."""
    numbers = len(pack.image_files())
    if not numbers and not pack.images:
        return {}
    if not any(f.kind == INDEX for f in pack.files):
        problems.append(f"{INDEX_FILE}: is not in pack.json, which counts {pack.images} images")
        return {}
    found: dict[int, list[Placed]] = {}
    try:
        index = Index(pack.path / INDEX_FILE)
        if len(index) != pack.images:
            problems.append(f"{INDEX_FILE}: has {len(index)} images, pack.json {pack.images}")
        for row, name in enumerate(index):
            place = index.location(row)
            found.setdefault(place.file, []).append((place, name))
            if index.find(name) != place:
                problems.append(f"{INDEX_FILE}: {name} is not found by its name")
            if place.file >= numbers:
                problems.append(f"{INDEX_FILE}: {name} lies in file {place.file} of {numbers}")
    except (OSError, ValueError) as error:
        problems.append(f"{INDEX_FILE}: cannot be read ({error})")
    for entries in found.values():
        entries.sort(key=lambda e: (e[0].offset, e[1]))
    return found


def _gaps(packed: PackedFile, entries: list[Placed]) -> list[str]:
    """Images have to lie one behind the other, and to fill their file: none is missing, none overlaps."""
    at = 0
    for place, name in entries:
        expected = at + len(shards.header(name, place.length))
        if place.offset != expected:
            return [f"{INDEX_FILE}: {name} begins at {place.offset} of {packed.name}, expected {expected}"]
        at = place.offset + place.length + shards.padding(place.length)
    if at + len(shards.END) != packed.size:
        return [f"{INDEX_FILE}: images end at {at} of {packed.name}, which has {packed.size} bytes"]
    return []


def _by_block(packed: PackedFile, entries: list[Placed]) -> Iterator[tuple[PackedFile, int, list[Placed]]]:
    """Each block of a file with the images whose headers end in it."""
    by_block: dict[int, list[Placed]] = {}
    for place, name in entries:
        by_block.setdefault(max(place.offset - 1, 0) // BLOCK, []).append((place, name))
    for block in range(len(packed.blocks)):
        yield packed, block, by_block.get(block, [])


def _check_block(fd: int, packed: PackedFile, block: int, entries: list[Placed]) -> list[str]:
    offset, length = packed.span(block)
    problems = []
    try:
        data = os.pread(fd, length, offset)
        if checksum(data) != packed.blocks[block]:
            problems.append(f"{packed.name}: block {block} (bytes {offset} to {offset + length}) is damaged")
        for place, name in entries:
            header = shards.header(name, place.length)
            begin, end = place.offset - len(header), place.offset + place.length
            if begin < 0 or end > packed.size:
                problems.append(f"{INDEX_FILE}: {name} lies outside of {packed.name}")
                continue
            inside = offset <= begin and end <= offset + len(data)
            whole = data[begin - offset:end - offset] if inside else os.pread(fd, end - begin, begin)
            if whole[:len(header)] != header:
                problems.append(f"{packed.name}: the header before {name} is another")
            if checksum(whole[len(header):]) != place.checksum:
                problems.append(f"{packed.name}: {name} is damaged")
    except OSError as error:
        problems.append(f"{packed.name}: block {block} cannot be read ({error.strerror})")
    except MemoryError:  # an index may claim images of any size
        problems.append(f"{packed.name}: block {block} holds an image that does not fit into memory")
    return problems


def _check_annotation(folder: Path, name: str, digest: str) -> list[str]:
    try:
        return [] if files.digest(folder / name) == digest else [f"{name}: is not the file that was packed"]
    except (OSError, Unreadable) as error:
        return [f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})"]


def compare(pack: Pack, root: Path, found: Findings, advance: Callable[[int], None], threads: int = THREADS) -> None:
    """Compare a pack with a data root, byte for byte and in both directions; adds to ``found``.

    Raises:
        UserError: The root cannot be read.
    """
    root = root.absolute()
    sources = scan(root, leave_out=(pack.path, Path(f"{pack.path}.partial")))
    index = pack.open_index() if pack.images else None
    by_number = pack.image_files()
    named = set(index or ())
    found.problems += _only_in("the pack", named - {s.name for s in sources.images})
    found.problems += _only_in(str(root), {s.name for s in sources.images} - named)
    digests = {a.name: a.digest for a in pack.annotations}  # verify holds the pack's own files to them
    found.problems += _only_in("the pack", set(digests) - {s.name for s in sources.annotations})
    found.problems += _only_in(str(root), {s.name for s in sources.annotations} - set(digests))

    def same(source: Source) -> str | None:
        place = index.find(source.name) if index is not None else None
        if place is None:
            return None
        with os.fdopen(open_regular(pack.path / by_number[place.file].name), "rb") as handle:
            packed = os.pread(handle.fileno(), place.length, place.offset)
        original = source.read()
        advance(len(original))
        return None if packed == original else f"{source.name}: the pack and {source.where} differ"

    with ThreadPoolExecutor(threads) as pool:
        found.problems += [problem for problem in pool.map(same, sources.images) if problem]
    for source in sources.annotations:
        if source.name in digests and _digest(source) != digests[source.name]:
            found.problems.append(f"{source.name}: the pack and {source.where} differ")
    found.compared = len(sources.images) + len(sources.annotations)


def _only_in(where: str, names: Iterable[str]) -> list[str]:
    return [f"{name}: is in {where} alone" for name in sorted(names)]


def _digest(source: Source) -> str:
    taken = Digesting()
    source.copy(taken)
    return taken.digest()
