"""Copying a pack to a node: once for all ranks and jobs there, and never the same block twice.

Blocks are copied in parallel into ``.tmp`` files, each checked as it passes; a file that is complete is made durable,
renamed, and entered in the manifest. A kill at any moment loses only the blocks in progress: what is in a ``.tmp``
file is checked against the pack's checksums, not against anything that the dead process wrote down.

Why blocks of 8 MiB and not files of 1 GB: a pack of one file is still copied by all threads, and a job that is
preempted loses 64 MB of its copy instead of 8 GB.

One process of a node copies (:mod:`.copier`); the others wait, and one of them resumes if it dies.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Callable

from ..base.errors import UserError
from ..pack.manifest import Pack, PackedFile, check_name
from . import leases
from .copier import Copier
from .scratch import NoRoom, Scratch, StagedSet
from .staged_set import SetFolder

if TYPE_CHECKING:
    from .peers.peer_group import PeerGroup

__all__ = ["NoRoom", "Staged", "repair", "stage"]

POLL = 0.1  # seconds between two looks at another process that copies
OnProgress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Staged:
    """A part of a pack that is on this node.

    Attributes:
        folder: Holds the files under their names in the pack.
        lease: Keeps them there until it is released, or this process and those forked from it are gone.
        copied: Bytes that were copied.
        found: Existing bytes, or bytes copied by another process that was waited for.
        repaired: Existing bytes that were wrong, and copied again.
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
          peers: PeerGroup | None = None, memory_limit: int | None = None, trust: bool = True,
          on_progress: OnProgress | None = None) -> Staged:
    """Have the ``wanted`` files of a pack on this node, and a lease on them.

    Args:
        peers: Other nodes that copy the same.
        memory_limit: Bytes that may be copied where scratch is in memory, and counts against that of the job.
        trust: Take files whose size and time stamp are right as complete, without reading them.
        on_progress: Called a few times a second with bytes done, bytes in all, and ``checking``, ``copying`` or
            ``waiting``.

    Raises:
        NoRoom: It does not fit, even without all sets that are not in use.
        UserError: The pack is damaged, or one of the directories cannot be used.
    """
    for file in wanted:
        check_name(file.name, pack.path)
    # before anything is copied: a job that needs room removes sets without a lease
    lease = scratch.enter(pack)
    try:
        copier = Copier(pack, list(dict.fromkeys(wanted)), scratch, peers, threads, memory_limit, trust,
                        _harmless(on_progress))
        began = time.monotonic()
        waiting = 0.0
        if not copier.is_there():
            with _sole_copier(copier) as waited:
                waiting = time.monotonic() - began if waited else 0.0
                if copier.lock.held:
                    copier.run()
        copier.announce()
        seconds = time.monotonic() - began - waiting
        source = "repaired" if copier.repaired else "copied" if copier.copied else "waited" if waiting else "there"
        return Staged(copier.folder.path, lease, copier.copied, copier.total - copier.copied - copier.repaired,
                      copier.repaired, seconds, waiting, source)
    except BaseException:
        lease.release()
        raise


def _harmless(on_progress: OnProgress | None) -> OnProgress:
    """Progress that cannot be reported, because another disk is full say, must not end the copy."""
    def report(done: int, total: int, what: str) -> None:
        with contextlib.suppress(OSError):
            if on_progress is not None:
                on_progress(done, total, what)

    return report


@contextlib.contextmanager
def _sole_copier(copier: Copier) -> Iterator[bool]:
    """Hold the set's copy lock, or return without it once all is there; whether another process was waited for."""
    waited = False
    try:
        while not copier.lock.take():
            waited = True
            progress = leases.progress_of(copier.lock.path)
            copier.on_progress(progress.done, progress.total, "waiting")
            time.sleep(POLL)
            if copier.is_there():
                break
        yield waited
    finally:
        copier.lock.release()


def repair(found: StagedSet, pack: Pack, *, threads: int = 8, on_progress: OnProgress | None = None) -> Staged:
    """Read all that is staged of a pack, and copy again what is wrong or missing.

    Raises:
        UserError: The set is not of this pack, or what :func:`stage` raises.
    """
    if pack.digest != found.digest:
        raise UserError(f"pack: {pack.path} is {pack.digest}, but {found.digest} is staged "
                        f"(from {found.pack or 'an unknown pack'}); expected the pack that it was copied from")
    folder = SetFolder(found.folder)
    listed = folder.manifest()["files"]
    staged = stage(pack, [f for f in pack.files if f.name in listed or folder.stamp(f.name)],
                   Scratch(found.folder.parents[2]), threads=threads, trust=False, on_progress=on_progress)
    staged.lease.release()
    return staged
