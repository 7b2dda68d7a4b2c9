"""Which checkpoints stay: pruning, branches abandoned by ``resume --from``, and what killed writers left behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ..base import files
from .checkpoints import Manifest, accepted, delete, manifests
from .run import Run

# Checkpoints that exist at any time: if the newest is broken, the one before it is used, and a new attempt that has not
# seen the newest yet may just be loading that one.
FEWEST = 2


def abandoned(run: Run) -> set[str]:
    """Names of the checkpoints of branches that ``resume --from`` left; they stay until the user deletes them.

    Each attempt's file lists them, to distinguish them from the commits of a stale attempt.
    """
    newest = run.newest_attempt()
    return set(run.read_attempt(newest).get("abandoned", ())) if newest else set()


def abandoned_after(run: Run, until: int | None) -> list[str]:
    """Names of what is abandoned once an attempt begins that accepts nothing after iteration ``until``."""
    later = {m.file for m in accepted(run) if until is not None and m.iteration > until}
    return sorted(abandoned(run) | later)


def prune(run: Run, attempt: int, keep: int, needed: Callable[[Manifest], bool] = lambda m: False) -> list[str]:
    """Delete old checkpoints, except the last ``keep`` (at least two), those at an epoch's end, and abandoned ones.

    Args:
        attempt: The caller's. Once a newer attempt has begun, that one decides what to delete.
        needed: Whether something, such as a planned evaluation, still needs a checkpoint.

    Returns:
        Names of the deleted files.
    """
    # listed before the accepted ones: otherwise a checkpoint that another attempt commits in between would be deleted
    existing, counting = manifests(run), accepted(run)
    kept = [*counting[-max(keep, FEWEST):], *(m for m in counting if m.epoch_end or needed(m))]
    names = {m.file for m in kept} | abandoned(run)
    gone = []
    for manifest in existing:
        if run.newest_attempt() > attempt:
            break
        if manifest.file not in names:
            path = manifest.path(run)
            delete([run.manifest_of(path), path])  # the manifest first: a checkpoint without one does not count
            gone.append(manifest.file)
    return gone


def remove_leftovers(run: Run, attempt: int) -> list[str]:
    """Delete what killed writers left behind: temporary files, and checkpoints without a manifest.

    Args:
        attempt: Only files of older attempts are deleted; a writer of this or a newer one may be running.

    Returns:
        Names of the deleted files.
    """
    return delete(leftovers(run, attempt))


def leftovers(run: Run, attempt: int) -> list[Path]:
    """Temporary files and checkpoints without a manifest of attempts older than ``attempt``."""
    return [path for path in sorted(run.checkpoints_dir.glob("*-a[0-9]*.*")) if _writer_of(path) < attempt
            and (files.TMP_MARK in path.name or not run.manifest_of(path).exists())]


def discard(run: Run, iteration: int, attempt: int) -> list[str]:
    """Delete what the writer of one checkpoint left behind when it was killed before it wrote the manifest.

    Returns:
        Names of the deleted files.
    """
    target = run.checkpoint_file(iteration, attempt)
    return delete([*run.checkpoints_dir.glob(f".{target.name}{files.TMP_MARK}*"),
                    *run.checkpoints_dir.glob(f".{run.manifest_of(target).name}{files.TMP_MARK}*"), target])


def _writer_of(path: Path) -> int:
    """The attempt in the name of a checkpoint or of its temporary file."""
    found = re.search(r"-a(\d+)\.", path.name)
    return int(found.group(1)) if found else 1 << 30
