"""Checkpoints as transactions: commit, verify, choose.

A checkpoint is a file and its manifest (size, digest, iteration, epoch, position, attempt). The manifest is written
last, so a checkpoint counts either entirely or not at all. Both name the attempt that wrote them, so a stale writer,
e.g. on a node that Slurm considers dead, cannot add one: see :func:`accepted`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..base import files, fileserver
from ..base.reading import OneOf, Unreadable, check
from . import records
from .run import Run


@dataclass(frozen=True)
class Manifest:
    """The record of a committed checkpoint.

    Attributes:
        file: Name in the checkpoint directory.
        size: Bytes.
        digest: ``sha256:…`` of the file.
        iteration: Optimizer steps done.
        epoch: The epoch of the next step, from 0.
        position: Iterations of that epoch already done.
        attempt: Number of the attempt that wrote it.
        epoch_end: It was written between two epochs or at the end of training; with gradient accumulation, after the
            step in which an epoch ended.
        step: Iterations that the last optimizer step consisted of.
    """

    file: str
    size: int
    digest: str
    iteration: int
    epoch: int
    position: int
    attempt: int
    epoch_end: bool
    step: int = 1

    def path(self, run: Run) -> Path:
        return run.checkpoints_dir / self.file

    def holds(self, iteration: int) -> bool:
        """Whether an iteration belongs to its last optimizer step."""
        return self.iteration - self.step < iteration <= self.iteration


class StaleAttempt(RuntimeError):
    """A newer attempt has begun, so commits of this one no longer count."""


def commit(run: Run, attempt: int, save: Callable[[Any], None], *, iteration: int, epoch: int,
           position: int, epoch_end: bool, step: int = 1,
           last_check: Callable[[], None] = lambda: None) -> Manifest:
    """Write a checkpoint and, last, its manifest; on failure both are removed.

    Args:
        save: Writes the checkpoint to the :class:`files.Digesting` that it is given.
        last_check: Called before the manifest is written; raises to abort the commit.

    Raises:
        OSError: It could not be written, e.g. because the disk is full.
    """
    target = run.checkpoint_file(iteration, attempt)
    run.checkpoints_dir.mkdir(parents=True, exist_ok=True)
    with files.replacing(target) as handle:
        counted = files.Digesting(handle)
        save(counted)
    manifest = Manifest(target.name, counted.size, counted.digest, iteration, epoch, position, attempt, epoch_end,
                        step)
    try:
        files.kill_point("before-manifest", target)
        # between file and manifest: what does not read back, or became stale meanwhile, never counts
        last_check()
        files.write_json(run.manifest_of(target), {**asdict(manifest), "time": round(time.time(), 3)})
    except BaseException:
        delete([run.manifest_of(target), target])
        raise
    files.kill_point("after-manifest", target)
    return manifest


def check_fence(run: Run, attempt: int) -> None:
    """Save a stale attempt a useless commit; correctness does not depend on it, see :func:`accepted`.

    Raises:
        StaleAttempt: A newer attempt has begun.
    """
    if (newest := run.newest_attempt()) > attempt:
        raise StaleAttempt(f"attempt {newest} has begun")


def committed(run: Run, iteration: int, attempt: int) -> Manifest | None:
    """The manifest of one checkpoint if it was written, even if its writer died before it could report that."""
    return read(run, run.checkpoint_file(iteration, attempt).name)


def manifests(run: Run) -> list[Manifest]:
    """All checkpoints with a readable manifest, by (iteration, attempt)."""
    names = fileserver.names_in(run.checkpoints_dir)
    paths = [run.checkpoints_dir / name for name in names if name.startswith("iter_") and name.endswith(".json")]
    found = fileserver.each(lambda path: _read(run, path), paths)
    return sorted(filter(None, found), key=lambda m: (m.iteration, m.attempt))


def _read(run: Run, path: Path) -> Manifest | None:
    try:
        record = records.read(path, records.MANIFEST)
        check(record, {"file": OneOf(path.with_suffix(".pth").name)}, path)
        return Manifest(**{k: record[k] for k in Manifest.__dataclass_fields__ if k in record})
    except FileNotFoundError:
        pass  # pruned in the meantime
    except Unreadable as error:
        run.note(error)
    return None


def read(run: Run, name: str) -> Manifest | None:
    """The manifest of the checkpoint with this file name; None if it does not exist."""
    return _read(run, run.manifest_of(run.checkpoints_dir / name))


def last(run: Run) -> Manifest | None:
    """The last checkpoint of a completed training; None if it is not complete, or the manifest is missing."""
    name = run.completion()
    return read(run, name) if name else None


def accepted(run: Run, until: int | None = None) -> list[Manifest]:
    """The checkpoints that count, by iteration: those of the newest attempt, and those it listed when it began.

    A checkpoint that an older attempt committed after that is not among them: this is the fence against stale writers.

    Args:
        until: Omit those of later iterations.
    """
    newest = run.newest_attempt()
    listed = set(run.read_attempt(newest)["accepts"]) if newest else set()
    counting = [m for m in manifests(run) if m.attempt == newest or m.file in listed]
    return [m for m in counting if until is None or m.iteration <= until]


def problem(run: Run, manifest: Manifest) -> str | None:
    """What is wrong with a checkpoint's file, or None; reads the whole file."""
    path = manifest.path(run)
    try:
        size = path.stat().st_size
        if size != manifest.size:
            return f"{size} bytes instead of {manifest.size}"
        return None if files.digest(path) == manifest.digest else "its content does not match its digest"
    except FileNotFoundError:
        return "the file is missing"
    except Unreadable:
        return "it is not a regular file"


def choose(run: Run, until: int | None = None
           ) -> tuple[Manifest | None, list[Manifest], list[tuple[Manifest, str]]]:
    """What a new attempt resumes from, what it accepts, and what was broken; see :func:`newest_sound`.

    Verifying a large checkpoint takes a while, in which an attempt that is not dead yet may commit and prune. So the
    accepted ones are listed afterwards, and if the newest has changed, the choice is repeated.
    """
    broken: list[tuple[Manifest, str]] = []
    while True:
        newest, found = newest_sound(run, until)
        broken += found
        accepts = accepted(run, until)
        if accepts[-1:] == ([newest] if newest else []):
            return newest, accepts, broken


def newest_sound(run: Run, until: int | None = None) -> tuple[Manifest | None, list[tuple[Manifest, str]]]:
    """The checkpoint to resume from, and the broken ones that were skipped and moved to quarantine."""
    broken: list[tuple[Manifest, str]] = []
    for manifest in reversed(accepted(run, until)):
        reason = problem(run, manifest)
        if reason is None:
            return manifest, broken
        quarantine(run, manifest)
        broken.append((manifest, reason))
    return None, broken


def quarantine(run: Run, manifest: Manifest) -> None:
    """Move a broken checkpoint to the quarantine; the manifest first, so that it stops counting at once."""
    if run.quarantine_dir.is_symlink():
        run.quarantine_dir.unlink()  # not created by this program, and could point anywhere
    run.quarantine_dir.mkdir(parents=True, exist_ok=True)
    path = manifest.path(run)
    for source in (run.manifest_of(path), path):
        if source.exists():
            os.replace(source, run.quarantine_dir / source.name)


def delete(paths: Iterable[Path]) -> list[str]:
    """Delete files that may be gone already; the names of those that were deleted."""
    gone = []
    for path in list(paths):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):  # a directory is never a checkpoint
            path.unlink()
            gone.append(path.name)
    return gone


def describe(manifest: Manifest) -> dict[str, Any]:
    """The fields of a checkpoint that other records (ledger, metrics) repeat."""
    return {"checkpoint": manifest.file, "iteration": manifest.iteration, "epoch": manifest.epoch,
            "digest": manifest.digest}
