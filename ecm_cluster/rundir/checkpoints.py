"""Checkpoints as transactions: commit, validate, choose, retain.

A checkpoint is a file and its manifest (size, digest, iteration, epoch, position, attempt). The manifest is
written last, so a checkpoint either counts entirely or not at all. Which attempt wrote it is part of both, so a
writer that outlived its attempt (a node that Slurm took for dead) cannot slip one in: see :func:`accepted`.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..base import files
from ..base.reading import OneOf, Unreadable, check
from . import records
from .run import Run

FEWEST = 2  # checkpoints that are there at any time, see prune


@dataclass(frozen=True)
class Manifest:
    """What a committed checkpoint says of itself.

    Attributes:
        file: Name in the checkpoint folder.
        size: Bytes.
        digest: ``sha256:…`` of the file.
        iteration: Optimizer steps done.
        epoch: Epochs begun, from 0: the one that the next step belongs to.
        position: Iterations of that epoch already done.
        attempt: Who wrote it.
        epoch_end: It stands between two epochs, or at the end; where a step takes several iterations, and an epoch
            ended inside it, at the end of that step.
        step: Iterations that the optimizer step took which it stands behind.
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
        """Whether an iteration is its own, or one of the step that it stands behind."""
        return self.iteration - self.step < iteration <= self.iteration


class Overtaken(RuntimeError):
    """A newer attempt has begun: what this one would commit does not count any more."""


def commit(run: Run, attempt: int, save: Callable[[Any], None], *, iteration: int, epoch: int,
           position: int, epoch_end: bool, step: int = 1,
           last_check: Callable[[], None] = lambda: None) -> Manifest:
    """Write a checkpoint and, last, its manifest; either all of it counts or nothing of it stays.

    Args:
        save: Writes the checkpoint into the :class:`files.Digesting` that it is given.
        last_check: Called before the manifest; what it raises ends the commit.

    Raises:
        OSError: It could not be written, e.g. as the disk is full.
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
        last_check()
        files.write_json(run.manifest_of(target), {**asdict(manifest), "time": round(time.time(), 3)})
    except BaseException:
        _delete(run, target)
        raise
    files.kill_point("after-manifest", target)
    return manifest


def check_fence(run: Run, attempt: int) -> None:
    """Spare an overtaken attempt a commit for nothing. Readers do not count on this: see :func:`accepted`.

    Raises:
        Overtaken: A newer attempt has begun.
    """
    if (newest := run.newest_attempt()) > attempt:
        raise Overtaken(f"attempt {newest} has begun")


def committed(run: Run, iteration: int, attempt: int) -> Manifest | None:
    """The manifest of one checkpoint, if it was written: its writer may have died before it could say so."""
    return read(run, run.checkpoint_file(iteration, attempt).name)


def _delete(run: Run, checkpoint: Path) -> None:
    _remove([run.manifest_of(checkpoint), checkpoint])  # no reader takes up a checkpoint whose file is gone


def manifests(run: Run) -> list[Manifest]:
    """Everything with a readable manifest, by (iteration, attempt)."""
    found = [manifest for path in run.checkpoints_dir.glob("iter_*.json") if (manifest := _read(run, path))]
    return sorted(found, key=lambda m: (m.iteration, m.attempt))


def _read(run: Run, path: Path) -> Manifest | None:
    try:
        record = records.read(path, records.MANIFEST)
        check(record, {"file": OneOf(path.with_suffix(".pth").name)}, path)
        return Manifest(**{k: record[k] for k in Manifest.__dataclass_fields__ if k in record})
    except FileNotFoundError:
        pass  # pruned meanwhile
    except Unreadable as error:
        run.note(error)
    return None


def read(run: Run, name: str) -> Manifest | None:
    """The manifest of the checkpoint with this file name; None where there is none."""
    return _read(run, run.manifest_of(run.checkpoints_dir / name))


def last(run: Run) -> Manifest | None:
    """The checkpoint that completed the training; None where it is not complete, or has lost its manifest."""
    name = run.completion()
    return read(run, name) if name else None


def accepted(run: Run, until: int | None = None) -> list[Manifest]:
    """The checkpoints that count, by iteration: those of the newest attempt and those it listed when it began.

    What an older attempt committed after the newest began is not among them: that is the fence.

    Args:
        until: Leave out those of later iterations.
    """
    newest = run.newest_attempt()
    listed = set(run.read_attempt(newest)["accepts"]) if newest else set()
    counting = [m for m in manifests(run) if m.attempt == newest or m.file in listed]
    return [m for m in counting if until is None or m.iteration <= until]


def problem(run: Run, manifest: Manifest) -> str | None:
    """What is wrong with a checkpoint's file, or None: it is read once, whole."""
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
    """What a new attempt goes on from, what it accepts, and what was broken; see :func:`newest_sound`.

    To read a large checkpoint takes a while, in which an attempt that is not dead yet may commit and prune. So what
    is accepted is listed last, and when there is news in it, the choice is made again.
    """
    broken: list[tuple[Manifest, str]] = []
    while True:
        newest, found = newest_sound(run, until)
        broken += found
        accepts = accepted(run, until)
        if accepts[-1:] == ([newest] if newest else []):
            return newest, accepts, broken


def newest_sound(run: Run, until: int | None = None) -> tuple[Manifest | None, list[tuple[Manifest, str]]]:
    """The checkpoint to go on from, and the broken ones that were passed over, moved to quarantine."""
    broken: list[tuple[Manifest, str]] = []
    for manifest in reversed(accepted(run, until)):
        reason = problem(run, manifest)
        if reason is None:
            return manifest, broken
        quarantine(run, manifest)
        broken.append((manifest, reason))
    return None, broken


def quarantine(run: Run, manifest: Manifest) -> None:
    """Move a broken checkpoint out of the way; the manifest first, so that it stops counting at once."""
    if run.quarantine_dir.is_symlink():
        run.quarantine_dir.unlink()  # it leads elsewhere
    run.quarantine_dir.mkdir(parents=True, exist_ok=True)
    path = manifest.path(run)
    for source in (run.manifest_of(path), path):
        if source.exists():
            os.replace(source, run.quarantine_dir / source.name)


def abandoned(run: Run) -> set[str]:
    """Names of the checkpoints of branches that ``resume --from`` has left: they stay until the user deletes them.

    Each attempt's file lists them, which tells them from what a stale attempt commits.
    """
    newest = run.newest_attempt()
    return set(run.read_attempt(newest).get("abandoned", ())) if newest else set()


def leaving(run: Run, until: int | None) -> list[str]:
    """Names of what is abandoned from now on by an attempt that accepts nothing after iteration ``until``."""
    later = {m.file for m in accepted(run) if until is not None and m.iteration > until}
    return sorted(abandoned(run) | later)


def prune(run: Run, attempt: int, keep: int, needed: Callable[[Manifest], bool] = lambda m: False) -> list[str]:
    """Delete old checkpoints, never the last ``keep``, never an epoch's end, never what ``needed`` holds on to.

    What is :func:`abandoned` stays, too.

    Two stay in any case (:data:`FEWEST`). The one before the newest is there for when the newest is broken, and a new
    attempt may just be taking it up that has not seen the newest yet.

    Args:
        attempt: The caller's. Once a newer one has begun, that one decides what goes.

    Returns:
        Names of the deleted files.
    """
    # listed before what counts: a checkpoint that another attempt commits meanwhile is not judged
    there, counting = manifests(run), accepted(run)
    kept = [*counting[-max(keep, FEWEST):], *(m for m in counting if m.epoch_end or needed(m))]
    names = {m.file for m in kept} | abandoned(run)
    gone = []
    for manifest in there:
        if run.newest_attempt() > attempt:
            break
        if manifest.file not in names:
            _delete(run, manifest.path(run))
            gone.append(manifest.file)
    return gone


def sweep(run: Run, attempt: int) -> list[str]:
    """Delete what writers that died left behind: temporary files, and checkpoints without a manifest.

    Args:
        attempt: Only what older attempts left is touched; a writer of a newer one may be at work.

    Returns:
        Names of the deleted files.
    """
    return _remove(leftovers(run, attempt))


def leftovers(run: Run, attempt: int) -> list[Path]:
    """Temporary files and checkpoints without a manifest of attempts older than ``attempt``."""
    return [path for path in sorted(run.checkpoints_dir.glob("*-a[0-9]*.*")) if _writer_of(path) < attempt
            and (files.TMP_MARK in path.name or not run.manifest_of(path).exists())]


def discard(run: Run, iteration: int, attempt: int) -> list[str]:
    """Delete what the writer of one checkpoint left behind when it died before the manifest.

    Returns:
        Names of the deleted files.
    """
    target = run.checkpoint_file(iteration, attempt)
    return _remove([*run.checkpoints_dir.glob(f".{target.name}{files.TMP_MARK}*"),
                    *run.checkpoints_dir.glob(f".{run.manifest_of(target).name}{files.TMP_MARK}*"), target])


def _remove(paths: Iterable[Path]) -> list[str]:
    gone = []
    for path in list(paths):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):  # a folder is nobody's checkpoint
            path.unlink()
            gone.append(path.name)
    return gone


def _writer_of(path: Path) -> int:
    """The attempt in a checkpoint's name, temporary or not."""
    found = re.search(r"-a(\d+)\.", path.name)
    return int(found.group(1)) if found else 1 << 30


def describe(manifest: Manifest) -> dict[str, Any]:
    """The fields that other records (ledger, metrics) repeat of a checkpoint."""
    return {"checkpoint": manifest.file, "iteration": manifest.iteration, "epoch": manifest.epoch,
            "digest": manifest.digest}
