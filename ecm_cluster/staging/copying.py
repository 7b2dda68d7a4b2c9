"""Bringing a pack to a node: once, whatever the number of ranks and jobs there, and never twice the same block.

Blocks are copied in parallel into ``.tmp`` files, each checked as it passes; a file that is complete is made durable,
renamed, and entered in the manifest. A kill at any moment loses nothing but the blocks under way: what lies in a
``.tmp`` file is checked against the pack's checksums, not against anything that the dead process wrote down.

One process of a node copies; the others wait, and one of them goes on if it dies. The copying itself, block by block,
is :mod:`ecm_cluster.staging.bringing`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Protocol

from ..base.errors import UserError
from ..pack.manifest import Pack, PackedFile, check_name
from . import leases
from .bringing import Bringing
from .scratch import NoRoom, Scratch, StagedSet
from .staged_set import SetFolder
from .streams import ReadError, Stream, in_parallel

__all__ = ["Circle", "NoRoom", "Staged", "Verified", "stage", "verify"]

POLL = 0.1  # seconds between two looks at another process that copies
OnProgress = Callable[[int, int, str], None]


class Circle(Protocol):
    """Several nodes that pass blocks to each other. Its methods are called from several threads at once."""

    def order(self, blocks: list[tuple[PackedFile, int]]) -> list[tuple[PackedFile, int]]:
        """Which of the blocks that are missing here to bring first."""

    def fetch(self, file: PackedFile, block: int, buffer: memoryview) -> bool:
        """Fill the buffer, as long as the block, from another node; False: read it from shared storage."""

    def have(self, file: PackedFile, block: int, path: Path) -> None:
        """A block that is right lies in ``path``, at its offset in ``file``."""

    def moved(self, file: PackedFile, path: Path) -> None:
        """What was said to lie elsewhere lies in ``path`` now."""


@dataclass(frozen=True)
class Staged:
    """A part of a pack that is on this node.

    Attributes:
        folder: Holds the files under their names in the pack.
        lease: Keeps them there until it is released, or this process and those forked from it are gone.
        copied: Bytes that were copied.
        found: Bytes that were there already, or brought by another process that was waited for.
        repaired: Bytes that were there, were wrong, and were copied again.
        seconds: Spent checking and copying.
        waited: Seconds spent waiting for another process that copied.
        source: ``repaired``, ``copied``, ``waited`` or ``there``: the first of these that holds.
    """

    folder: Path
    lease: leases.Lease
    copied: int
    found: int
    repaired: int
    seconds: float
    waited: float
    source: str


def stage(pack: Pack, wanted: Sequence[PackedFile], scratch: Scratch, *, threads: int = 8,
          circle: Circle | None = None, memory_limit: int | None = None,
          on_progress: OnProgress | None = None) -> Staged:
    """Have the ``wanted`` files of a pack on this node, and a lease on them.

    Args:
        threads: How many blocks to copy at once.
        circle: Other nodes that bring the same.
        memory_limit: Bytes that may be copied where scratch lies in memory, and counts against that of the job.
        on_progress: Called a few times a second with bytes done, bytes in all, and ``checking``, ``copying`` or
            ``waiting``.

    Raises:
        NoRoom: It does not fit, even without all that nobody uses.
        UserError: The pack is damaged, or one of the folders cannot be used.
    """
    for file in wanted:
        check_name(file.name, pack.path)
    lease = scratch.enter(pack)
    try:
        bringing = Bringing(pack, list(dict.fromkeys(wanted)), scratch, circle, threads, memory_limit,
                            _harmless(on_progress))
        began = time.monotonic()
        waiting = 0.0
        if not bringing.is_there():
            with _sole_copier(bringing) as waited:
                waiting = time.monotonic() - began if waited else 0.0
                if bringing.lock.held:
                    bringing.run()
        bringing.announce()
        seconds = time.monotonic() - began - waiting
        source = "repaired" if bringing.repaired else "copied" if bringing.copied else "waited" if waiting else "there"
        return Staged(bringing.folder.path, lease, bringing.copied,
                      bringing.total - bringing.copied - bringing.repaired, bringing.repaired, seconds, waiting, source)
    except BaseException:
        lease.release()
        raise


def _harmless(on_progress: OnProgress | None) -> OnProgress:
    """Progress that cannot be told, because another disk is full say, is no reason to fail."""
    def report(done: int, total: int, what: str) -> None:
        with contextlib.suppress(OSError):
            if on_progress is not None:
                on_progress(done, total, what)

    return report


@contextlib.contextmanager
def _sole_copier(bringing: Bringing) -> Iterator[bool]:
    """Hold the set's copy lock, or come back without it once all is there; whether another process was waited for."""
    waited = False
    try:
        while not bringing.lock.take():
            waited = True
            progress = leases.progress_of(bringing.lock.path)
            bringing.on_progress(progress.done, progress.total, "waiting")
            time.sleep(POLL)
            if bringing.is_there():
                break
        yield waited
    finally:
        bringing.lock.release()


@dataclass(frozen=True)
class Verified:
    """What a full check of a set found.

    Attributes:
        bytes: Checked.
        bad: (file, block) of each block that was wrong or gone.
        repaired: Bytes that were copied again.
    """

    bytes: int
    bad: tuple[tuple[str, int], ...]
    repaired: int


def verify(found: StagedSet, pack: Pack, repair: bool = False, *, threads: int = 8,
           on_progress: OnProgress | None = None) -> Verified:
    """Read all that is staged of a pack, and compare the checksums of its blocks.

    What is wrong is put on record, so that the next start repairs it; with ``repair`` that is done at once.

    Raises:
        UserError: The set is not of this pack, or what :func:`stage` raises.
    """
    if pack.digest != found.digest:
        raise UserError(f"pack: {pack.path} is {pack.digest}, what is staged is {found.digest} "
                        f"(from {found.pack or 'an unknown pack'}); give the pack that it was copied from")
    scratch, folder = Scratch(found.folder.parents[2]), SetFolder(found.folder)
    report = _harmless(on_progress)
    with scratch.enter(pack):
        listed = folder.manifest()["files"]
        there = [f for f in pack.files if f.name in listed or folder.stamp(f.name)]
        total, done, bad = sum(f.size for f in there), [0], []

        def check(task: tuple[PackedFile, int], stream: Stream) -> None:
            file, block = task
            try:
                right = stream.carry(file, block, folder.file(file.name))
            except ReadError:
                right = False
            if not right:
                bad.append((file.name, block))
                folder.report_damage(file.name, block)
            done[0] += file.span(block)[1]

        in_parallel([(f, b) for f in there for b in range(len(f.blocks))], check, threads,
                    lambda: report(done[0], total, "checking"))
        repaired = 0
        if repair:
            with_repairs = stage(pack, there, scratch, threads=threads, on_progress=on_progress)
            with_repairs.lease.release()
            repaired = with_repairs.repaired + with_repairs.copied
    return Verified(total, tuple(sorted(bad)), repaired)
