"""What goes into a pack, in its order: annotation files, shards of images, their index, columns, and the manifest last.

An annotation file and a shard that are complete have a record in the work folder, and are not made again.
"""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, ContextManager, NamedTuple

from ..annotations import image_names
from ..base import files
from ..base.errors import UserError
from ..base.reading import LARGEST, Number, Text, Unreadable
from ..base.units import size_text
from . import shards
from .checksums import Digesting, as_hex, from_hex
from .pack import (
    ANNOTATIONS,
    BLOCK,
    IMAGES,
    INDEX,
    INDEX_FILE,
    MANIFEST,
    AnnotationFile,
    BlockWriter,
    PackedFile,
    block_checksums,
    describe,
    write_index,
)
from .sources import THREADS, Source, Sources, first_of

SHARD_SIZE = 1 << 30
LARGE = 64 << 20  # an annotation file whose columns take more than a moment
AT_ONCE = 4  # shards that are written at the same time
WORK, PLAN = ".packing", "fingerprint"

_DIGEST = {"digest": Text(r"sha256:[0-9a-f]{64}")}
_RECORD = {"size": Number(0), "blocks": Text(r"[0-9a-f]*", LARGEST), "members": [list]}

Show = Callable[[str, int], ContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Options:
    """How to pack.

    Attributes:
        shard_size: Bytes of a shard; an image that has more gets one of its own.
        threads: That read images.
        strict: An image that an annotation file names and that is not there is an error.
        replace: Pack again where a pack is there.
    """

    shard_size: int = SHARD_SIZE
    threads: int = THREADS
    strict: bool = False
    replace: bool = False


class Written(NamedTuple):
    """Bytes of images that a call has written, and the seconds that it took."""

    size: int
    seconds: float


@dataclass(frozen=True)
class Annotated:
    """An annotation file that lies in the pack: with its columns, the images that it names, and names not found."""

    name: str
    digest: str
    columns: PackedFile | None
    images: set[str]
    absent: list[str]


def fill(partial: Path, sources: Sources, fingerprint: str, options: Options, show: Show,
         say: Callable[[str], None]) -> Written:
    """Make all that belongs into a pack, in the folder that becomes it; what is there from a former call stays."""
    names = image_names.Names(s.name for s in sources.images)
    with_names = [_copy_annotations(partial, source, names) for source in sources.annotations]
    _say_absent(with_names, options.strict, say)
    by_name = image_names.groups({a.name: a.images for a in with_names})
    group_of = {s.name: by_name.get(s.name, image_names.OTHER) for s in sources.images}
    stems = [Path(name).stem for name in image_names.in_order(a.name for a in with_names)]
    order = list(dict.fromkeys([*stems, image_names.OTHER]))
    planned = shards.divide(sources.images, group_of, order, options.shard_size)
    packed, entries, written = _shards(partial, planned, options, show)
    if planned:
        with files.replacing(partial / INDEX_FILE) as handle:
            index = BlockWriter(handle)
            write_index(index, entries)
        packed.append(PackedFile(INDEX_FILE, index.size, INDEX, "", index.blocks()))
    with_columns = [_add_columns(partial, a, say) for a in with_names]
    packed += [a.columns for a in with_columns if a.columns is not None]
    known = []
    for a in with_columns:
        held = {group_of[image] for image in a.images}
        known.append(AnnotationFile(a.name, a.digest, a.columns.name if a.columns else None,
                                    tuple(group for group in order if group in held)))
    files.write_json(partial / MANIFEST, describe(packed, known, len(sources.images), source=str(sources.root),
                                                  **{PLAN: fingerprint}))
    return written


def _say_absent(annotated: list[Annotated], strict: bool, say: Callable[[str], None]) -> None:
    for a in annotated:
        if a.absent:
            text = f"{a.name} names {len(a.absent)} images that are not there ({first_of(a.absent)})"
            if strict:
                raise UserError(f"{text}; put them into the data root, or leave out --strict")
            say(f"warning: {text}")


def _copy_annotations(partial: Path, source: Source, names: image_names.Names) -> Annotated:
    """Bring an annotation file into the pack, as published."""
    target, record = partial / source.name, partial / WORK / source.name
    try:
        digest = files.read_json(record, _DIGEST)["digest"] if target.is_file() else None
    except (FileNotFoundError, Unreadable):
        digest = None
    if digest is None:
        with files.replacing(target) as handle:
            taken = Digesting(handle)
            source.copy(taken)
        digest = taken.digest()
        files.write_json(record, {"digest": digest})
    try:
        present, absent = image_names.named(target, names)
    except UserError as error:  # the copy is whole: the file is broken where it comes from
        raise UserError(str(error).replace(str(target), source.where)) from None
    return Annotated(source.name, digest, None, present, absent)


def _add_columns(partial: Path, annotated: Annotated, say: Callable[[str], None]) -> Annotated:
    """Make the columns of an annotation file, where it has what they are of and numpy is there."""
    path = partial / annotated.name
    name = f"{ANNOTATIONS}/{path.stem}.columns"
    if not image_names.has_instances(path):
        return annotated
    try:
        from mmdet_ext.data import annotations

        if path.stat().st_size > LARGE:
            say(f"making columns of {annotated.name}")
        with files.replacing(partial / name) as handle:
            annotations.write(path, handle)
    except ImportError as error:
        say(f"no columns of {annotated.name}: they need numpy ({error}); the nodes will make them")
        return annotated
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, MemoryError) as error:
        say(f"no columns of {annotated.name} ({error or 'not enough memory here'})")
        return annotated
    made = PackedFile(name, (partial / name).stat().st_size, ANNOTATIONS, annotated.name,
                      block_checksums(partial / name))
    return replace(annotated, columns=made)


def _shards(partial: Path, planned: list[shards.Shard], options: Options,
            show: Show) -> tuple[list[PackedFile], list[shards.Entry], Written]:
    """Write the shards that are not there yet; returns all of them, where each image lies, and what was written."""
    began = time.monotonic()
    found = {shard.name: known for shard in planned if (known := _recorded(partial, shard)) is not None}
    missing = [shard for shard in planned if shard.name not in found]
    if missing:
        (partial / IMAGES).mkdir(exist_ok=True)
        _check_room(partial, sum(shard.size for shard in missing))
    total = sum(s.size for shard in missing for s in shard.members)
    stop = threading.Event()
    with show("packing", total) as advance, ThreadPoolExecutor(options.threads) as readers, \
            ThreadPoolExecutor(AT_ONCE) as writers:
        def one(shard: shards.Shard) -> None:
            found[shard.name] = shards.write(shard, partial / shard.name, readers, advance, stop)
            _record(partial, *found[shard.name])

        waiting = [writers.submit(one, shard) for shard in missing]
        try:
            for future in as_completed(waiting):
                future.result()
        except BaseException:
            stop.set()
            for future in waiting:
                future.cancel()
            raise
    files.fsync_dir(partial)
    return ([found[shard.name][0] for shard in planned],
            [entry for shard in planned for entry in found[shard.name][1]],
            Written(total, time.monotonic() - began))


def _record(partial: Path, packed: PackedFile, entries: list[shards.Entry]) -> None:
    files.write_json(partial / WORK / f"{packed.name}.json", {
        "size": packed.size, "blocks": as_hex(packed.blocks),
        "members": [[name, place.offset, place.length, place.checksum] for name, place in entries]})


def _recorded(partial: Path, shard: shards.Shard) -> tuple[PackedFile, list[shards.Entry]] | None:
    """A shard that a former call has completed; None where there is none, or its record is damaged."""
    try:
        record = files.read_json(partial / WORK / f"{shard.name}.json", _RECORD)
        packed = PackedFile(shard.name, record["size"], IMAGES, shard.group, from_hex(record["blocks"]))
        entries = [(name, shards.Location(shard.number, *map(int, place))) for name, *place in record["members"]]
        right = [(name, place.length) for name, place in entries] == [(s.name, s.size) for s in shard.members] \
            and all(0 <= p.offset <= packed.size - p.length and 0 <= p.checksum < 2**64 for _, p in entries) \
            and (partial / shard.name).stat().st_size == packed.size == shard.size \
            and len(packed.blocks) == -(-packed.size // BLOCK)
        return (packed, entries) if right else None
    except (OSError, ValueError, TypeError):
        return None


def _check_room(partial: Path, size: int) -> None:
    room = shutil.disk_usage(partial).free
    if room < size:
        raise UserError(f"OUT: {partial.parent} has {size_text(room)} left, {size_text(size)} are to be written; make "
                        "room, or give another OUT")
