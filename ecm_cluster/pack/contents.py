"""What goes into a pack, in its order: annotation files, shards of images, their index, columns, and the manifest last.

An annotation file and a shard that are complete have a record in the work folder, and are not made again.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, ContextManager

from ..base import files
from ..base.errors import UserError
from ..base.reading import Text, Unreadable
from ..base.units import size_text
from . import groups, shards
from .checksums import BlockWriter, block_checksums
from .index import write_index
from .manifest import ANNOTATIONS, IMAGES, INDEX, INDEX_FILE, MANIFEST, AnnotationFile, PackedFile, describe
from .sources import THREADS, SourceFile, Sources

SHARD_SIZE = 1 << 30  # bytes: a call that was killed makes unfinished shards again; copies are by blocks, not shards
LARGE = 64 << 20  # an annotation file whose columns take more than a moment
AT_ONCE = 4  # shards that are written at the same time
WORK, FINGERPRINT = ".packing", "fingerprint"

_RECORD = {"digest": Text(r"sha256:[0-9a-f]{64}")}

Show = Callable[[str, int], ContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Options:
    """How to pack.

    Attributes:
        shard_size: Bytes of a shard; an image that has more gets one of its own.
        threads: That read images.
        strict: An image that an annotation file names and that does not exist is an error.
        replace: Pack again where a pack exists.
    """

    shard_size: int = SHARD_SIZE
    threads: int = THREADS
    strict: bool = False
    replace: bool = False


@dataclass(frozen=True)
class Annotated:
    """An annotation file in the pack: with the images that it names, and names that do not exist."""

    name: str
    digest: str
    images: set[str]
    absent: list[str]


def fill(partial: Path, sources: Sources, fingerprint: str, options: Options, show: Show,
         say: Callable[[str], None]) -> tuple[int, float]:
    """Make everything in the folder that becomes the pack; what an earlier call has completed stays.

    Returns:
        Bytes of images that were written, and the seconds that it took.
    """
    names = groups.Names(s.name for s in sources.images)
    annotated = [_copy_annotations(partial, source, names) for source in sources.annotations]
    _report_absent(annotated, options.strict, say)
    by_name = groups.groups({a.name: a.images for a in annotated})
    group_of = {s.name: by_name.get(s.name, groups.OTHER) for s in sources.images}
    order = list(dict.fromkeys([*(Path(n).stem for n in groups.in_order(a.name for a in annotated)), groups.OTHER]))
    planned = shards.divide(sources.images, group_of, order, options.shard_size)
    complete, written = _shards(partial, planned, options, show)
    packed = [shard.packed for shard in complete]
    if packed:
        packed.append(_index(partial, complete))
    columns = [_columns(partial, a.name, say) for a in annotated]
    packed += [made for made in columns if made is not None]
    known = []
    for a, made in zip(annotated, columns):
        held = {group_of[image] for image in a.images}
        known.append(AnnotationFile(a.name, a.digest, made.name if made else None,
                                    tuple(group for group in order if group in held)))
    files.write_json(partial / MANIFEST, describe(packed, known, len(sources.images), source=str(sources.root),
                                                  **{FINGERPRINT: fingerprint}))
    return written


def _index(partial: Path, complete: list[shards.CompleteShard]) -> PackedFile:
    with files.replacing(partial / INDEX_FILE) as handle:
        out = BlockWriter(handle)
        write_index(out, [entry for one in complete for entry in one.shard.locations(one.images).items()])
    return PackedFile(INDEX_FILE, out.size, INDEX, "", out.blocks())


def _report_absent(annotated: list[Annotated], strict: bool, say: Callable[[str], None]) -> None:
    for a in annotated:
        if a.absent:
            text = f"{a.name} names {len(a.absent)} images that do not exist ({first_of(a.absent)})"
            if strict:
                raise UserError(f"{text}; add them to the data root, or leave out --strict")
            say(f"warning: {text}")


def _copy_annotations(partial: Path, source: SourceFile, names: groups.Names) -> Annotated:
    """Copy an annotation file into the pack, as published."""
    target, record = partial / source.name, partial / WORK / source.name
    try:
        digest = files.read_json(record, _RECORD)["digest"] if target.is_file() else None
    except (FileNotFoundError, Unreadable):
        digest = None
    if digest is None:
        with files.replacing(target) as handle:
            copied = files.Digesting(handle)
            source.copy(copied)
        digest = copied.digest
        files.write_json(record, {"digest": digest})
    try:
        present, absent = groups.named_by(target, names)
    except UserError as error:  # the copy is complete: it is the original that is damaged
        raise UserError(str(error).replace(str(target), source.where)) from None
    return Annotated(source.name, digest, present, absent)


def _columns(partial: Path, source: str, say: Callable[[str], None]) -> PackedFile | None:
    """Make the columns of an annotation file, if it has instances and numpy is installed."""
    path = partial / source
    name = f"{ANNOTATIONS}/{path.stem}.columns"
    if not groups.has_instances(path):
        return None
    try:
        from mmdet_ext.data import annotations

        if path.stat().st_size > LARGE:
            say(f"making columns of {source}")
        with files.replacing(partial / name) as handle:
            annotations.write(path, handle)
    except ImportError as error:
        say(f"no columns of {source}: they need numpy ({error}); the nodes will make them")
        return None
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, MemoryError) as error:
        say(f"no columns of {source} ({error or 'not enough memory here'})")
        return None
    return PackedFile(name, (partial / name).stat().st_size, ANNOTATIONS, source, block_checksums(partial / name))


def _shards(partial: Path, planned: list[shards.Shard], options: Options,
            show: Show) -> tuple[list[shards.CompleteShard], tuple[int, float]]:
    """Write the shards that are not complete yet; returns all of them, and what was written."""
    began = time.monotonic()
    records = {shard.name: partial / WORK / f"{shard.name}.json" for shard in planned}
    found = {shard.name: shards.completed(shard, partial / shard.name, records[shard.name]) for shard in planned}
    missing = [shard for shard in planned if found[shard.name] is None]
    if missing:
        (partial / IMAGES).mkdir(exist_ok=True)
        size, room = sum(shard.size for shard in missing), shutil.disk_usage(partial).free
        if room < size:
            raise UserError(f"OUT: {partial.parent} has {size_text(room)} left, and {size_text(size)} are needed; free "
                            "some space, or use another OUT")
    total = sum(s.size for shard in missing for s in shard.members)
    stop = threading.Event()
    with show("packing", total) as advance, ThreadPoolExecutor(options.threads) as readers, \
            ThreadPoolExecutor(AT_ONCE) as writers:
        def one(shard: shards.Shard) -> None:
            written = found[shard.name] = shards.write(shard, partial / shard.name, readers, advance, stop)
            # after the shard is durable: the next call trusts a record, and checks no more than the size
            written.record(records[shard.name])

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
    complete = [shard for shard in found.values() if shard is not None]
    return complete, (total, time.monotonic() - began)


def first_of(names: Iterable[str], count: int = 3) -> str:
    """The first names, and that there are more."""
    listed = list(names)
    return ", ".join(listed[:count]) + (", …" if len(listed) > count else "")
