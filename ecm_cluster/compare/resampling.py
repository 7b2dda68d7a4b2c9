"""The figures of a group's runs on resampled test images, from the detections that evaluation has stored.

Every run is resampled with the same draws, which is what makes the differences paired. A run's replicates are kept in
the group's directory: they take half a minute for 2,000 images of LVIS, five for its 19,809, and do not change.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..base import files
from ..base.errors import UserError
from ..base.reading import Maybe, Number, Unreadable, read_json
from ..chain import evaluations
from ..scoring import parts, scorers
from ..sweeps.group import Group
from .settings import GroupSetting, Scored

REPLICATES = 200  # for a standard error: Efron and Tibshirani, chapter 6
UNASKED_BYTES = 64 << 20  # of detections that are resampled without being asked to: a quarter of a minute
BYTES_PER_SECOND = 4 << 20  # with 200 replicates


def of_group(group: Group, settings: Sequence[GroupSetting], kinds: Sequence[str], asked: int | None, seed: int,
             ) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Figures in each replicate, by kind, run and figure; and notes on what could not be resampled.

    Args:
        asked: The number of replicates; None: 200, if that takes less than a minute.
    """
    runs = [one for setting in settings for one in setting.runs]
    count = REPLICATES if asked is None else asked
    if count == 0 or not runs:
        return {}, []
    found: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
    left = [one for one in runs if not all([_take(found, one, kind, _cache(group, one, kind, count, seed))
                                            for kind in kinds])]
    size = sum(map(_size, left))
    if asked is None and size > UNASKED_BYTES:
        return found, [f"errors over images are left out: {size / 1e9:.1f} GB of detections take about "
                       f"{max(1, size // BYTES_PER_SECOND // 60)} min; --replicates {REPLICATES} computes them"]
    for number, one in enumerate(left, 1):
        if sys.stderr.isatty():
            print(f"\r\033[Kresampling {number}/{len(left)}: {one.cell.name}", end="", file=sys.stderr)
        try:
            of_run = _replicates(one, kinds, count, seed)
        except UserError as error:
            return found, [f"errors over images are left out: {one.cell.name}: {error}"]  # mostly the same for all
        for kind, values in of_run.items():
            found[kind][one.cell.name] = values
            _keep(group, _cache(group, one, kind, count, seed), values)
    if left and sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    return found, []


def _size(one: Scored) -> int:
    size = 0
    for path in evaluations.chunk_files(one.row.work) or []:
        with contextlib.suppress(OSError):
            size += os.stat(path).st_size
    return size


def _replicates(one: Scored, kinds: Sequence[str], count: int, seed: int) -> dict[str, dict[str, list[float | None]]]:
    work = one.row.work
    if not evaluations.has_detections(work):
        raise UserError("its detections are not stored any more")
    scorers.require_hotcoco("replicates")
    from ..scoring import bootstrap, hotcoco
    from ..scoring.detection_files import read_shards

    scored = parts.ScoredSet.read(work.scored_set_file)
    if scored is None or len(scored.parts) != 1 or scored.parts[0].kind != parts.LVIS:
        raise UserError("only for a single dataset that is scored by LVIS's rule")
    detections = read_shards(evaluations.chunk_files(work) or [])
    with _document(scored.parts[0], one.row.provenance.get("annotations_digest")) as document:
        found = scored.parts[0].place_ids(scored.of_part(0, detections)) if scored.by_position else detections
        truth = hotcoco.GroundTruth(document)
        matches = {kind: hotcoco.find_matches(truth, found, kind) for kind in kinds}
        return {kind: bootstrap.replicated(matches[kind], document["categories"], count, seed) for kind in kinds}


@contextlib.contextmanager
def _document(part: parts.ScoredDataset, digest: str | None) -> Iterator[dict[str, Any]]:
    try:
        if digest and files.digest(part.ann_file) != digest:
            raise UserError(f"{part.ann_file} has changed since it was scored")
    except OSError as error:
        raise UserError(f"{part.ann_file}: {error.strerror}") from None
    yield part.restrict(_read(part.ann_file))


@lru_cache(maxsize=1)
def _read(path: str) -> dict[str, Any]:
    from ..scoring.checks import read_annotations

    return read_annotations(path)


# ---------------------------------------------------------------------------------------------- kept


def _cache(group: Group, one: Scored, kind: str, count: int, seed: int) -> Path:
    return group.path / "replicates" / f"{one.cell.name}.{one.row.work.key}.{kind}.{count}.{seed}.json"


def _take(found: dict[str, dict[str, Any]], one: Scored, kind: str, cache: Path) -> bool:
    """Whether replicates of an earlier call are there."""
    with contextlib.suppress(OSError, Unreadable):
        found[kind][one.cell.name] = read_json(cache, {str: [Maybe(Number(0, 1, whole=False))]})
    return one.cell.name in found[kind]


def _keep(group: Group, cache: Path, replicates: dict[str, list[float | None]]) -> None:
    with contextlib.suppress(OSError, UserError):
        group.require_own()
        cache.parent.mkdir(exist_ok=True)
        files.write_json(cache, replicates)
