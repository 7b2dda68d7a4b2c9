"""What a run stages, decided at its submission: from which pack, to where, and what happens if there is no room."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base import files
from ..base.errors import UserError
from ..base.units import size_text
from ..job.job import BOTH, NOTHING
from ..mmclasses.datasets import leaves
from ..pack import manifest
from ..pack.columns import cache_folder

MEMORY = ("/", "dev", "shm")
ON_NODE = ("SLURM_TMPDIR", "TMPDIR")  # variables with a node's scratch, if neither the job nor the site file names one


@dataclass(frozen=True)
class Staging:
    """How the data of a run is brought to its nodes.

    Attributes:
        what: ``images+annotations``, ``annotations`` or ``none``.
        pack: The data root, if it is a pack; None: images are read where they are.
        scratch: As in the job or the site file, with variables that are expanded on the node; None: see
            :data:`ON_NODE`.
        or_fail: End with an error if staging is not possible, rather than read from shared storage.
        broadcast: Nodes pass blocks on to each other.
        columns: Where the columns of annotation files are cached that no pack brings.
        annotations: Digest of each annotation file of training and test, by its absolute path.
    """

    what: str
    pack: str | None
    scratch: str | None
    or_fail: bool
    broadcast: bool
    columns: str
    annotations: dict[str, str] = field(default_factory=dict)

    def frozen(self) -> dict[str, Any]:
        """What stays as it was submitted; the rest belongs to the job, which a resume may change."""
        return {"pack": self.pack, "columns": self.columns, "annotations": self.annotations}

    @classmethod
    def of(cls, record: Mapping[str, Any], job: Any) -> Staging:
        """From :meth:`frozen` and the :class:`ecm_cluster.job.job.Job` as it is now."""
        return cls(job.stage, record["pack"], job.scratch, job.stage_or_fail, job.broadcast, record["columns"],
                   dict(record["annotations"]))

    def within_pack(self, ann_file: str) -> str:
        """An annotation file's name in the pack: its path below the data root."""
        assert self.pack is not None
        return os.path.relpath(ann_file, self.pack).replace(os.sep, "/")


def plan(job: Any, root: str | None) -> Staging:
    """The staging of a :class:`ecm_cluster.job.job.Job` whose data root is ``root``.

    Raises:
        UserError: The root is a pack that cannot be read.
    """
    folder = os.path.abspath(os.path.expanduser(root)) if root else None
    pack = folder if folder is not None and manifest.is_pack(folder) else None
    if pack is not None:
        manifest.read(pack)
    return Staging(job.stage, pack, job.scratch, job.stage_or_fail, job.broadcast, str(cache_folder()))


def annotation_files(cfg: Mapping[str, Any], split: str) -> list[str]:
    """Absolute paths of the annotation files that ``data.<split>`` of a config names."""
    return data_paths(cfg, split, "ann_file")


def data_paths(cfg: Mapping[str, Any], split: str, key: str) -> list[str]:
    """Absolute paths of ``key`` (``ann_file``, ``img_prefix``) in ``data.<split>`` of a config, each once."""
    return list(dict.fromkeys(path for leaf in leaves(cfg, split) if (path := leaf.path(key)) is not None))


def digest_of_all(digests: Sequence[str]) -> str | None:
    """One digest for those of several annotation files; that of a single one as it is, None for none."""
    if not digests:
        return None
    return digests[0] if len(digests) == 1 else files.digest_text("\n".join(digests))


def scratch_of(staging: Staging, environ: Mapping[str, str]) -> Path | None:
    """The folder on this node's disk, from the job, the site, ``$SLURM_TMPDIR`` or ``$TMPDIR``; None: there is none."""
    if staging.scratch is not None:
        return Path(os.path.expandvars(os.path.expanduser(staging.scratch)))
    return next((Path(environ[name]) for name in ON_NODE if environ.get(name)), None)


def lifetime(scratch: str | None) -> str:
    """Where the copy goes, and whether the next attempt on the same node finds it."""
    if scratch is None:
        return "$SLURM_TMPDIR or $TMPDIR, which sites clear between jobs (--scratch DIR names a folder that persists)"
    if any(name in scratch for name in ("SLURM_TMPDIR", "SLURM_JOB_ID")):
        return f"{scratch}, gone with the job"
    if Path(scratch).parts[:3] == MEMORY:
        return f"{scratch}, memory that counts against the job's"
    return f"{scratch}, where the next attempt on the node finds it"


def check_memory(staging: Staging, size: int, memory: int) -> str | None:
    """Why a scratch in a node's ``memory`` cannot hold ``size`` bytes; None: it can, or may be on a disk."""
    if staging.scratch is None or Path(staging.scratch).parts[:3] != MEMORY or size < memory:
        return None
    return (f"scratch: {staging.scratch} is memory, and counts against the job's: {size_text(size)} to stage do not "
            f"fit into {size_text(memory)} a node; use a folder on disk (--scratch), or more memory (--mem-per-gpu)")


def size_of(staging: Staging, ann_files: list[str]) -> int:
    """Bytes that a node copies for these annotation files; 0 if that is not known yet."""
    if staging.pack is None or staging.what == NOTHING:
        return 0
    wanted = manifest.read(staging.pack).needed([staging.within_pack(path) for path in ann_files], staging.what == BOTH)
    return sum(f.size for f in wanted)


def describe(staging: Staging, ann_files: list[str], here: Mapping[str, str] | None = None) -> str:
    """The plan's line on staging; ``here`` is the environment, if the job runs on this machine."""
    if staging.what == NOTHING:
        return "nothing: images and annotations are read from shared storage"
    if here is not None and scratch_of(staging, here) is None and not staging.or_fail:
        return "nothing: the data is read where it is (--scratch DIR copies it to another disk)"
    if staging.pack is None:
        what = "annotations"
    else:
        what = f"{size_text(size_of(staging, ann_files))} ({staging.what}) of {staging.pack}"
    more = ["nodes pass it on to each other"] if staging.broadcast else []
    more.append("required to start" if staging.or_fail else "if there is no room, it is read from shared storage")
    if staging.pack is None and staging.what == BOTH:
        more.append("images are read where they are: the data root is not a pack (`python -m ecm_cluster.stage pack`)")
    return f"{what}, to each node's {lifetime(staging.scratch)}; {'; '.join(more)}"


def check_annotations(staging: Staging, digests: Mapping[str, str]) -> None:
    """Refuse a pack whose annotation files, with ``digests`` by absolute path, have changed since it was made."""
    if staging.pack is None:
        return
    known = manifest.read(staging.pack)
    for path, digest in digests.items():
        packed = known.annotation(staging.within_pack(path))
        if packed is not None and packed.digest != digest:
            raise UserError(f"data-root: {path} has changed since the pack {staging.pack} was made; pack it again")
