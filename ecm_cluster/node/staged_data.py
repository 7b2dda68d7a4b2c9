"""Staging in a rank: its node's copy of the data, and the config that reads from it.

Every rank of a node asks for the data; one of them copies, and the others wait for that. What cannot be staged is read
from shared storage, where the job allows it: from the pack if the data root is one, else as without staging.
"""

from __future__ import annotations

import contextlib
import math
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
from .staging_events import StagingEvents
from .world import RankInfo

if TYPE_CHECKING:
    from ..staging.peers.peer_group import PeerGroup

IMAGE_READERS = ("LoadImageFromFile", "LoadMultiChannelImageFromFiles")  # of mmdet, and what takes file_client_args


@dataclass
class Data:
    """Where a rank reads its data from.

    Attributes:
        pack, folder: The pack that holds the images, and its copy on this node.
        columns: Path of the columns of each annotation file.
        leases: Keep the copies from being collected, as long as this process lives.
        peer_groups: Serve this node's blocks to the other nodes.
    """

    pack: Path | None = None
    folder: Path | None = None
    columns: dict[str, str] = field(default_factory=dict)
    leases: list[Any] = field(default_factory=list)
    peer_groups: list[PeerGroup] = field(default_factory=list)


def prepare(run: Run, job: Job, work: Work, place: RankInfo, attempt: int, split: str) -> Data:
    """Stage what ``data.<split>`` of the run's config reads; :func:`use` then lets the config read from there.

    Nothing heavy is imported for it, so that copying begins at once.

    Args:
        job: Of the stage that this rank works on.
        work: The training or the evaluation that this rank works on.
        split: ``train`` or ``test``.

    Raises:
        UserError: It cannot be staged, and the job requires it.
    """
    record = run.spec.staging
    if record is None:
        return Data()
    staging, memory = Staging.of(record, job), job.memory_mib  # for each GPU, where it is known
    heartbeat.beat(phase="staging", done=0, total=0)
    ann_files = planned.annotation_files(config.read_frozen(run.config_file), split)
    data = Data(pack=Path(staging.pack) if staging.pack else None)
    events = StagingEvents(work, attempt, place)
    packs = _packs(staging, ann_files, data, events)
    if staging.what != planned.NOTHING:
        _stage(staging, memory, ann_files, packs, data, events)
    if place.nodes > 1 and place.local_rank == 0:
        files.write_json(work.staged_file(attempt, place.node), {"host": socket.gethostname()})
    heartbeat.beat(phase="starting")
    return data


def _packs(staging: Staging, ann_files: list[str], data: Data, events: StagingEvents) -> list[manifest.Pack]:
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
                events.problem("columns", f"annotations are parsed by each rank: {error}")
                continue
            data.columns[ann_file] = str(made.path / made.files[0].name)
            found.append(made)
    return found


def _stage(staging: Staging, memory: int | None, ann_files: list[str], packs: list[manifest.Pack], data: Data,
           events: StagingEvents) -> None:
    place, count = events.place, heartbeat.Counter()
    try:
        base = planned.scratch_of(staging, os.environ)
        if base is None and not place.on_slurm and not staging.or_fail:
            return  # one machine: the disk that the data is on is as near as any other
        if base is None:
            raise UserError("scratch: neither the job nor this node's $SLURM_TMPDIR and $TMPDIR name a directory; set "
                            "one with --scratch")
        base.mkdir(parents=True, exist_ok=True)
        scratch = Scratch(base)
        limit = memory and (memory << 20) * max(1, place.world_size // place.nodes)
        for each in packs:
            wanted = _wanted(staging, each, ann_files)
            if not wanted:
                continue
            with _peers(staging, each, scratch, data, events) as peers:
                staged = copying.stage(each, wanted, scratch, peers=peers, memory_limit=limit,
                                       on_progress=lambda done, total, _: count(done, total, "staging"))
            data.leases.append(staged.lease)
            _point_to(each, staged.folder, data)
            if place.local_rank == 0 or staged.copied or staged.repaired:
                events.write("staged", pack=str(each.path), scratch=str(base), folder=str(staged.folder),
                             source=staged.source, copied=staged.copied, found=staged.found, repaired=staged.repaired,
                             seconds=round(staged.seconds, 3), waited=round(staged.waited, 3))
    except (UserError, OSError) as error:
        if staging.or_fail:
            raise UserError(f"staging: {error}") from error
        events.problem("failed", f"read from shared storage: {error}")


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
def _peers(staging: Staging, each: manifest.Pack, scratch: Scratch, data: Data,
           events: StagingEvents) -> Iterator[PeerGroup | None]:
    """The nodes that pass blocks on to each other; a node's first rank speaks for it."""
    work, attempt, place = events.work, events.attempt, events.place
    if not staging.broadcast or place.nodes == 1:
        yield None
        return
    if place.local_rank != 0:  # a rank that copied without its node's server would keep the other nodes waiting
        _await_marks([work.staged_file(attempt, place.node)])
        heartbeat.beat(phase="staging")
        yield None
        return
    from ..staging.peers.peer_group import PeerGroup

    peers = PeerGroup(partial(work.staging_contact_file, attempt, each.digest), place.node, place.nodes, each.digest,
                      rendezvous.addresses(), scratch.set_folder(each.digest).path)
    data.peer_groups.append(peers)
    try:
        yield peers
    except BaseException:
        peers.close()  # the others need not wait for blocks that will not come
        raise


def _await_marks(marks: list[Path], seconds: float = math.inf) -> None:
    """Wait for files of the attempt; if a rank that should write one dies, its supervisor ends this one too."""
    heartbeat.beat(phase="waiting for data")
    quiet, missing, end = Quiet(), marks, time.monotonic() + seconds
    while missing and time.monotonic() < end:
        with quiet:  # storage that fails for a moment ends nothing
            missing = [mark for mark in missing if not mark.exists()]
            os.listdir(marks[0].parent)  # makes an NFS client look for new names
        time.sleep(0.1 if missing else 0)


# ---------------------------------------------------------------------------------------------- the config


def use(cfg: Any, data: Data) -> None:
    """Let a config's data sets read columns, and its pipelines a pack; nothing else in it changes."""
    from mmdet.models.builder import LOSSES

    import mmdet_ext.data.balanced
    import mmdet_ext.data.datasets  # noqa: F401  (the last two replace mmdet's own data sets)
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


def await_nodes(work: Work, place: RankInfo, attempt: int, data: Data) -> None:
    """Wait until every node has its data: what meets afterwards (the process group) does not wait for hours."""
    if place.nodes > 1:
        _await_marks([work.staged_file(attempt, node) for node in range(place.nodes)])
        heartbeat.beat(phase="starting")
    stop_serving(work, place, attempt, data, 0.0)


def stop_serving(work: Work, place: RankInfo, attempt: int, data: Data, seconds: float) -> None:
    """Serve other nodes until every node has its data, at most ``seconds``."""
    if data.peer_groups and seconds:
        _await_marks([work.staged_file(attempt, node) for node in range(place.nodes)], seconds)
    for peers in data.peer_groups:
        peers.close()
