"""Staging in a rank: its node's copy of the data, and the config that reads from it.

Every rank of a node asks for the data; one of them copies, and the others wait for that. What cannot be staged is read
from shared storage, where the job allows it: then from the pack, if the data root is one, and else as ever.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import files
from ..base.errors import UserError
from ..job.job import Job
from ..mmconfig import config
from ..pack import columns, manifest
from ..rundir.run import Run, Work
from ..staging import copying, planned, reader
from ..staging.planned import Staging
from ..staging.scratch import Scratch
from . import heartbeat, rendezvous, signals
from .beside import Quiet
from .world import Place

if TYPE_CHECKING:
    from ..staging.peers.broadcast import Circle

IMAGE_READERS = ("LoadImageFromFile", "LoadMultiChannelImageFromFiles")  # of mmdet, and what takes file_client_args


@dataclass
class Data:
    """Where a rank reads its data from.

    Attributes:
        pack, folder: The pack that holds the images, and its copy on this node.
        columns: Path of the columns of each annotation file.
        leases: What keeps the copies from being collected, as long as this process lives.
        doors: What serves this node's blocks to the others.
    """

    pack: Path | None = None
    folder: Path | None = None
    columns: dict[str, str] = field(default_factory=dict)
    leases: list[Any] = field(default_factory=list)
    doors: list[Circle] = field(default_factory=list)

    def close_doors(self, grace: float) -> None:
        """Serve other nodes no longer, after ``grace`` seconds for those that are not done."""
        for door in self.doors:
            door.close(grace)


def prepare(run: Run, job: Job, work: Work, place: Place, attempt: int, split: str) -> Data:
    """Stage what ``data.<split>`` of the run's config reads; :func:`use` then lets the config read from there.

    Nothing heavy is imported for it, so that copying begins at once.

    Args:
        job: Of the stage that this rank works at.
        work: The training or the evaluation that this rank works at.
        split: ``train`` or ``test``.

    Raises:
        UserError: It cannot be staged, and the job forbids to go on without.
    """
    record = run.spec.staging
    if record is None:
        return Data()
    staging, memory = Staging.of(record, job), job.memory_mib  # for each GPU, where it is known
    heartbeat.beat(phase="staging", done=0, total=0)
    ann_files = planned.annotation_files(config.read_frozen(run.config_file), split)
    data = Data(pack=Path(staging.pack) if staging.pack else None)
    told = Told(work, attempt, place)
    packs = _packs(staging, ann_files, data, told)
    if staging.what != planned.NOTHING:
        _stage(staging, memory, ann_files, packs, data, work, place, attempt, told)
    if place.nodes > 1 and place.local_rank == 0:
        files.write_json(work.staged_file(attempt, place.node), {"host": socket.gethostname()})
    heartbeat.beat(phase="starting")
    return data


def _packs(staging: Staging, ann_files: list[str], data: Data, told: Told) -> list[manifest.Pack]:
    """The packs that hold the data: that of the data root, and one of columns for each annotation file it lacks."""
    found = [manifest.read(staging.pack)] if staging.pack else []
    for ann_file in ann_files:
        known = found[0].annotation(staging.within_pack(ann_file)) if staging.pack else None
        if known is not None and known.columns:
            data.columns[ann_file] = str(found[0].path / known.columns)
        elif ann_file in staging.annotations and ann_file.endswith(".json"):
            try:
                made = columns.ensure(Path(ann_file), staging.annotations[ann_file], Path(staging.columns),
                                      signals.prepare_child)
            except (UserError, OSError) as error:  # then every rank parses the file, as mmdet does
                told.trouble("columns", f"annotations are parsed by each rank: {error}")
                continue
            data.columns[ann_file] = str(made.path / made.files[0].name)
            found.append(made)
    return found


def _stage(staging: Staging, memory: int | None, ann_files: list[str], packs: list[manifest.Pack], data: Data,
           work: Work, place: Place, attempt: int, told: Told) -> None:
    count = heartbeat.Counter()
    try:
        base = planned.scratch_of(staging, os.environ)
        if base is None and not place.on_slurm and not staging.or_fail:
            return  # one machine: the disk that the data is on is as near as any other
        if base is None:
            raise UserError("scratch: neither the job nor this node's $SLURM_TMPDIR and $TMPDIR name a folder; give "
                            "one by --scratch")
        base.mkdir(parents=True, exist_ok=True)
        scratch = Scratch(base)
        for each in packs:
            wanted = _wanted(staging, each, ann_files)
            if not wanted:
                continue
            with _circle(staging, each, work, place, attempt, data) as circle:
                staged = copying.stage(each, wanted, scratch, circle=circle,
                                       on_progress=lambda done, total, _: count(done, total, "staging"),
                                       memory_limit=memory and (memory << 20) * max(1, place.world_size // place.nodes))
            data.leases.append(staged.lease)
            _point_to(each, staged.folder, data)
            if place.local_rank == 0 or staged.copied or staged.repaired:
                told("staged", pack=str(each.path), scratch=str(base), folder=str(staged.folder), source=staged.source,
                     copied=staged.copied, found=staged.found, repaired=staged.repaired,
                     seconds=round(staged.seconds, 3), waited=round(staged.waited, 3))
    except (UserError, OSError) as error:
        if staging.or_fail:
            raise UserError(f"staging: {error}") from error
        told.trouble("failed", f"read from shared storage: {error}")


def _wanted(staging: Staging, each: manifest.Pack, ann_files: list[str]) -> list[manifest.PackedFile]:
    if str(each.path) != staging.pack:
        return list(each.files)
    return each.needed([staging.within_pack(path) for path in ann_files], staging.what == planned.BOTH)


def _point_to(each: manifest.Pack, folder: Path, data: Data) -> None:
    """Read from the copy what it holds."""
    for ann_file, path in data.columns.items():
        if path.startswith(f"{each.path}{os.sep}"):
            copy = reader.right_copy(each, os.path.relpath(path, each.path), folder)
            data.columns[ann_file] = str(copy or path)
    if each.path == data.pack:
        data.folder = folder


@contextlib.contextmanager
def _circle(staging: Staging, each: manifest.Pack, work: Work, place: Place, attempt: int,
            data: Data) -> Iterator[Circle | None]:
    """The nodes that pass blocks on to each other; a node's first rank speaks for it."""
    if not staging.broadcast or place.nodes == 1:
        yield None
        return
    if place.local_rank != 0:  # a rank that copied without its node's door would keep the other nodes waiting
        _await_marks([work.staged_file(attempt, place.node)])
        heartbeat.beat(phase="staging")
        yield None
        return
    from ..staging.peers.broadcast import Circle

    circle = Circle(partial(work.staging_contact_file, attempt, each.digest), place.node, place.nodes, each.digest,
                    rendezvous.addresses())
    data.doors.append(circle)
    try:
        yield circle
    except BaseException:
        circle.close(0.0)  # the others need not wait for what will not come
        raise


def _await_marks(marks: list[Path]) -> None:
    """Wait for files of the attempt; whoever should write one and dies takes this rank along, by its supervisor."""
    heartbeat.beat(phase="waiting for data")
    quiet, missing = Quiet(), marks
    while missing:
        with quiet:  # storage that fails for a moment ends nothing
            missing = [mark for mark in missing if not mark.exists()]
            os.listdir(marks[0].parent)  # makes an NFS client look for new names
        time.sleep(0.1 if missing else 0)


# ---------------------------------------------------------------------------------------------- the config


def use(cfg: Any, data: Data) -> None:
    """Let a config's data sets read columns, and its pipelines a pack; nothing else of it changes."""
    from mmdet.models.builder import LOSSES

    import mmdet_ext.data.balanced
    import mmdet_ext.data.datasets  # noqa: F401  (the last two take the place of mmdet's own data sets)
    import mmdet_ext.loss.assigners
    from mmdet_ext.data import annotations

    if "EffectiveClassMarginLoss" not in LOSSES:  # a fork of mmdet has one, which stays unless the config asks for ours
        import mmdet_ext.loss.ecm_loss  # noqa: F401
    annotations.use(data.columns)
    arguments: dict[str, Any] = {}
    if data.pack is not None:
        from ..staging import mmcv_backend

        arguments = {"backend": mmcv_backend.NAME, "pack": str(data.pack),
                     **({"folder": str(data.folder)} if data.folder else {})}
    for block in config.nested(cfg.data):
        if data.columns and block.get("type") in annotations.SUBSTITUTES:
            block["type"] = annotations.SUBSTITUTES[block["type"]]
        reads = block.get("type") in IMAGE_READERS or "file_client_args" in block
        if arguments and reads and (block.get("file_client_args") or {}).get("backend", "disk") == "disk":
            block["file_client_args"] = dict(arguments)


# ---------------------------------------------------------------------------------------------- all nodes


def await_nodes(work: Work, place: Place, attempt: int, data: Data) -> None:
    """Wait until every node has its data: what meets afterwards (the process group) has no patience for hours."""
    if place.nodes > 1:
        _await_marks([work.staged_file(attempt, node) for node in range(place.nodes)])
        heartbeat.beat(phase="starting")
    data.close_doors(0.0)


class Told:
    """Events of this rank's staging, in its own file of the ledger."""

    def __init__(self, work: Work, attempt: int, place: Place) -> None:
        self.work, self.attempt, self.place = work, attempt, place

    def trouble(self, what: str, detail: str) -> None:
        """What went another way than planned; all ranks of a node meet it, and one says so."""
        if self.place.local_rank == 0:
            self("staging", what=what, detail=detail)

    def __call__(self, kind: str, **fields: Any) -> None:
        self.work.ledger(self.attempt, f"staging{self.place.rank:03d}", patient=True).write(
            kind, node=self.place.node, host=socket.gethostname(), rank=self.place.rank, **fields)
