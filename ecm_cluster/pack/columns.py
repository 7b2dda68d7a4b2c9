"""Annotation files as columns, cached on shared storage by their digest: made once, when they are first needed.

A pack brings its own. For a plain data root they are kept in a cache that the nodes see, each as a pack of one file, so
that it is staged like any other. Making the columns of LVIS v1's training set takes about 40 seconds and 5 GB of
memory; in a process of its own, so that the memory is released.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ..base import files, folders
from ..base.errors import UserError
from ..base.reading import open_regular
from .manifest import ANNOTATIONS, MANIFEST, AnnotationFile, Pack, PackedFile, block_checksums, describe, is_pack, read

CACHE_ENV = "ECM_CLUSTER_ANNOTATIONS"
LOCK = ".lock"
PATIENCE_SECONDS = 1800.0  # for another process that makes them: 40 s for LVIS, more on slow storage


def cache_folder() -> Path:
    """``$ECM_CLUSTER_ANNOTATIONS``, or ``ecm-cluster/annotations`` in the user's cache; the nodes need to see it."""
    return folders.cache_folder(CACHE_ENV, "annotations")


def kept(folder: Path, digest: str) -> Path:
    """Where the columns of an annotation file with this digest (``sha256:<hex>``) are, or will be."""
    return folder / digest.partition(":")[2][:32]


def ensure(ann_file: Path, digest: str, folder: Path, prepare_child: Callable[[], None] | None = None,
           patience: float = PATIENCE_SECONDS) -> Pack:
    """The columns of an annotation file in the cache ``folder``, made if they do not exist.

    Args:
        prepare_child: Called in the process that makes them, before it begins.

    Raises:
        UserError: The file has changed, or is not an annotation file.
        OSError: The cache cannot be written.
    """
    if not re.fullmatch("sha256:[0-9a-f]{64}", digest):
        raise UserError(f"{ann_file}: invalid digest {digest[:80]!r}; expected sha256: and 64 hexadecimal digits")
    target = kept(folder, digest)
    if not is_pack(target):
        folder.mkdir(parents=True, exist_ok=True)
        # one lock per user, as every user that can open a lock can hold it; the first of two renames counts
        lock = folder / f"{LOCK}-{os.geteuid()}"
        os.close(open_regular(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
        # one process for all that wait, on all nodes, as it takes gigabytes; without file locks each makes its own
        with files.locked(lock, patience):
            if not is_pack(target):  # who held the lock may have made them
                _make_apart(ann_file, digest, target, prepare_child)
    found = read(target)
    if len(found.files) != 1 or [(a.digest, a.columns) for a in found.annotations] != [(digest, found.files[0].name)]:
        raise UserError(f"{target}: does not hold the columns of {digest[:16]}…; remove it, and it is made again")
    return found


def _make_apart(ann_file: Path, digest: str, target: Path, prepare_child: Callable[[], None] | None) -> None:
    done = subprocess.run([sys.executable, "-m", __name__, str(ann_file), digest, str(target)], check=False,
                          stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8", errors="replace",
                          preexec_fn=prepare_child)
    if not is_pack(target):
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"{ann_file}: could not create its columns ({lines[-1]})")


def make(ann_file: Path, digest: str, target: Path) -> None:
    """Make the pack ``target`` of one annotation file; of several that do so at once, the first one counts."""
    from mmdet_ext.data import annotations

    if files.digest(ann_file) != digest:
        raise UserError(f"{ann_file} has changed since the submission; restore the file, or submit again")
    name = f"{ann_file.stem}.columns"
    part = target.with_name(f".{target.name}{files.TMP_MARK}{os.getpid()}-{os.urandom(4).hex()}")
    part.mkdir()
    try:
        with files.replacing(part / name) as handle:
            annotations.write(ann_file, handle)
        blocks = block_checksums(part / name)
        packed = PackedFile(name, (part / name).stat().st_size, ANNOTATIONS, ann_file.name, blocks)
        files.write_json(part / MANIFEST, describe([packed], [AnnotationFile(ann_file.name, digest, name, ())], 0,
                                                   source=str(ann_file)))
        with contextlib.suppress(OSError):  # another process was first
            part.rename(target)
            files.fsync_dir(target.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


if __name__ == "__main__":
    try:
        make(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
    except (UserError, ValueError, OSError) as error:
        sys.exit(str(error))
