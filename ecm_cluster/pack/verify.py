"""Is a pack intact? Every byte of it is read once, file by file; and compared with the original data if asked.

Covered: what pack.json, the index and the archives say of each other, and, with the data root that the pack was made
of, that both hold the same bytes under the same names. Not covered: whether a picture can be decoded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Tuple

from ..base import files
from ..base.reading import Unreadable, open_regular
from . import shards
from .manifest import BLOCK, INDEX, INDEX_FILE, Index, Location, Pack, PackedFile, checksum
from .sources import THREADS, SourceFile, scan

Placed = Tuple[Location, str]


@dataclass
class Verification:
    """What is wrong with a pack, one line each; and how much was read.

    Attributes:
        bytes: Of the pack.
        compared: Files of the data root that were compared.
    """

    problems: list[str] = field(default_factory=list)
    bytes: int = 0
    compared: int = 0


def verify(pack: Pack, advance: Callable[[int], None], threads: int = THREADS) -> Verification:
    """Check everything that a pack says of itself; ``advance`` is called with the bytes of each block that was read."""
    found = Verification(bytes=sum(f.size for f in pack.files))
    placed = _placed(pack, found.problems)
    entries = {packed.name: placed.get(number, []) for number, packed in enumerate(pack.image_files())}
    if placed:
        found.problems += [problem for f in pack.image_files() for problem in _gaps(f, entries[f.name])]
    with ThreadPoolExecutor(threads) as pool:
        checks = [pool.submit(_check_file, pack.path, f, entries.get(f.name, []), advance) for f in pack.files]
        found.problems += [problem for check in checks for problem in check.result()]
    for a in pack.annotations:
        try:
            if files.digest(pack.path / a.name) != a.digest:
                found.problems.append(f"{a.name}: is not the file that was packed")
        except (OSError, Unreadable) as error:
            found.problems.append(_cannot_be_read(a.name, error))
    found.problems.sort()
    return found


def _placed(pack: Pack, problems: list[str]) -> dict[int, list[Placed]]:
    """The images of each file in the order of their offsets, by the index."""
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
            problems.append(f"{INDEX_FILE}: has {len(index)} images; expected {pack.images}, as in pack.json")
        for row, name in enumerate(index):
            place = index.location(row)
            found.setdefault(place.file, []).append((place, name))
            if index.find(name) != place:
                problems.append(f"{INDEX_FILE}: {name} is not found by its name")
            if place.file >= numbers:
                problems.append(f"{INDEX_FILE}: {name} is in file {place.file} of {numbers}")
    except (OSError, ValueError) as error:
        problems.append(f"{INDEX_FILE}: cannot be read ({error})")
    for entries in found.values():
        entries.sort(key=lambda e: (e[0].offset, e[1]))
    return found


def _gaps(packed: PackedFile, entries: list[Placed]) -> list[str]:
    """Images have to follow each other and to fill their file: none is missing, none overlaps."""
    at = 0
    for place, name in entries:
        expected = at + len(shards.header(name, place.length))
        if place.offset != expected:
            return [f"{INDEX_FILE}: {name} begins at {place.offset} of {packed.name}, expected {expected}"]
        at = place.offset + place.length + shards.padding(place.length)
    if at + len(shards.END) != packed.size:
        return [f"{INDEX_FILE}: images end at {at} of {packed.name}, which has {packed.size} bytes"]
    return []


def _check_file(folder: Path, packed: PackedFile, entries: list[Placed], advance: Callable[[int], None]) -> list[str]:
    """A file of a pack: its size, its blocks, and the images in it."""
    problems: list[str] = []
    by_block: dict[int, list[Placed]] = {}  # images whose headers end in it
    for place, name in entries:
        by_block.setdefault(max(place.offset - 1, 0) // BLOCK, []).append((place, name))
    try:
        with os.fdopen(open_regular(folder / packed.name), "rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            if size != packed.size:
                problems.append(f"{packed.name}: has {size} bytes; expected {packed.size}")
            for block in range(len(packed.blocks)):
                problems += _check_block(handle.fileno(), packed, block, by_block.get(block, []))
                advance(packed.span(block)[1])
    except (OSError, Unreadable) as error:
        problems.append(_cannot_be_read(packed.name, error))
    return problems


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
                problems.append(f"{INDEX_FILE}: {name} is outside of {packed.name}")
                continue
            inside = offset <= begin and end <= offset + len(data)
            member = data[begin - offset:end - offset] if inside else os.pread(fd, end - begin, begin)
            if member[:len(header)] != header:
                problems.append(f"{packed.name}: the header before {name} is another")
            if checksum(member[len(header):]) != place.checksum:
                problems.append(f"{packed.name}: {name} is damaged")
    except OSError as error:
        problems.append(f"{packed.name}: block {block} cannot be read ({error.strerror})")
    except MemoryError:  # an index may claim images of any size
        problems.append(f"{packed.name}: block {block} holds an image that does not fit into memory")
    return problems


def _cannot_be_read(name: str, error: Exception) -> str:
    return f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})"


def compare(pack: Pack, root: Path, found: Verification, advance: Callable[[int], None],
            threads: int = THREADS) -> None:
    """Compare a pack with a data root, byte for byte and in both directions; adds to ``found``.

    Raises:
        UserError: The root cannot be read.
    """
    root = root.absolute()
    sources = scan(root, leave_out=(pack.path, Path(f"{pack.path}.partial")))
    index = pack.open_index() if pack.images else None
    by_number = pack.image_files()
    digests = {a.name: a.digest for a in pack.annotations}  # verify holds the pack's own files to them
    for inside, outside in ((set(index or ()), sources.images), (set(digests), sources.annotations)):
        names = {s.name for s in outside}
        found.problems += _only_in("the pack", inside - names) + _only_in(str(root), names - inside)

    def difference(source: SourceFile) -> str | None:
        place = index.find(source.name) if index is not None else None
        if place is None:
            return None
        with os.fdopen(open_regular(pack.path / by_number[place.file].name), "rb") as handle:
            packed = os.pread(handle.fileno(), place.length, place.offset)
        original = source.read()
        advance(len(original))
        return None if packed == original else f"{source.name}: the pack and {source.where} differ"

    with ThreadPoolExecutor(threads) as pool:
        found.problems += [problem for problem in pool.map(difference, sources.images) if problem]
    for source in sources.annotations:
        original = files.Digesting()
        if source.name in digests:
            source.copy(original)
            if original.digest != digests[source.name]:
                found.problems.append(f"{source.name}: the pack and {source.where} differ")
    found.compared = len(sources.images) + len(sources.annotations)


def _only_in(where: str, names: Iterable[str]) -> list[str]:
    return [f"{name}: is in {where} alone" for name in sorted(names)]
