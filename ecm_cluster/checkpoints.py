"""Checkpoints as transactions: commit, validate, choose, retain.

A checkpoint is a file and its manifest (size, digest, iteration, epoch, position, attempt). The manifest is
written last, so a checkpoint either counts entirely or not at all. Which attempt wrote it is part of both, so a
writer that outlived its attempt (a node that Slurm took for dead) cannot slip one in: see :func:`accepted`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from . import files
from .run import Run


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
        epoch_end: It stands exactly between two epochs, or at the end.
    """

    file: str
    size: int
    digest: str
    iteration: int
    epoch: int
    position: int
    attempt: int
    epoch_end: bool

    def path(self, run: Run) -> Path:
        return run.checkpoints_dir / self.file


def commit(run: Run, attempt: int, save: Callable[[IO[bytes]], None], *, iteration: int, epoch: int,
           position: int, epoch_end: bool) -> Manifest:
    """Write a checkpoint and, last, its manifest.

    Args:
        save: Writes the checkpoint into the binary file that it is given.
    """
    target = run.checkpoint_file(iteration, attempt)
    run.checkpoints_dir.mkdir(parents=True, exist_ok=True)
    with files.replacing(target) as handle:
        save(handle)
    manifest = Manifest(target.name, target.stat().st_size, files.digest(target), iteration, epoch, position,
                        attempt, epoch_end)
    files.kill_point("before-manifest", target)
    files.write_json(run.manifest_of(target), {**asdict(manifest), "time": round(time.time(), 3)})
    files.kill_point("after-manifest", target)
    return manifest


def manifests(run: Run) -> list[Manifest]:
    """Everything with a readable manifest, by (iteration, attempt)."""
    found = []
    for path in run.checkpoints_dir.glob("iter_*.json"):
        try:
            record = files.read_json(path)
            found.append(Manifest(**{k: record[k] for k in Manifest.__dataclass_fields__}))
        except (ValueError, KeyError, FileNotFoundError):
            continue  # pruned meanwhile, or not a manifest
    return sorted(found, key=lambda m: (m.iteration, m.attempt))


def accepted(run: Run) -> list[Manifest]:
    """The checkpoints that count, by iteration: those of the newest attempt and those it listed when it began.

    What an older attempt committed after the newest began is not among them: that is the fence.
    """
    newest = run.newest_attempt()
    listed = set(run.read_attempt(newest)["accepts"]) if newest else set()
    return [m for m in manifests(run) if m.attempt == newest or m.file in listed]


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


def newest_sound(run: Run) -> tuple[Manifest | None, list[tuple[Manifest, str]]]:
    """The checkpoint to go on from, and the broken ones that were passed over, moved to quarantine."""
    broken: list[tuple[Manifest, str]] = []
    for manifest in reversed(accepted(run)):
        reason = problem(run, manifest)
        if reason is None:
            return manifest, broken
        quarantine(run, manifest)
        broken.append((manifest, reason))
    return None, broken


def quarantine(run: Run, manifest: Manifest) -> None:
    """Move a broken checkpoint out of the way; the manifest first, so that it stops counting at once."""
    run.quarantine_dir.mkdir(parents=True, exist_ok=True)
    path = manifest.path(run)
    for source in (run.manifest_of(path), path):
        if source.exists():
            os.replace(source, run.quarantine_dir / source.name)


def prune(run: Run, keep: int, needed: Callable[[Manifest], bool] = lambda m: False) -> list[str]:
    """Delete old checkpoints, never the last ``keep``, never an epoch's end, never what ``needed`` holds on to.

    Returns:
        Names of the deleted files.
    """
    counting = accepted(run)
    names = {m.file for m in counting[-max(keep, 1):]} | {m.file for m in counting if m.epoch_end or needed(m)}
    newest = run.newest_attempt()
    gone = []
    for manifest in manifests(run):
        # what a later attempt has committed is not this process's to judge
        if manifest.file not in names and manifest.attempt <= newest:
            path = manifest.path(run)
            run.manifest_of(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            gone.append(manifest.file)
    return gone


def describe(manifest: Manifest) -> dict[str, Any]:
    """The fields that other records (ledger, metrics) repeat of a checkpoint."""
    return {"checkpoint": manifest.file, "iteration": manifest.iteration, "epoch": manifest.epoch,
            "digest": manifest.digest}
