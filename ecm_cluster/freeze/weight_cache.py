"""The cache of pretrained weights: each URL fetched once, checked, and kept under its published name.

A file can be put there by hand: then nothing is fetched. Beside each file stands ``<file>.json`` with its
URL, sha256, size and time of change, so that a digest is worked out once and not at every submission.

Others may write to the cache as well. What they have put there counts only where its digest is what its name promises;
their records are ignored, their locks are not waited for, and their files are not changed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable

from ..base import files, folders
from ..base.errors import UserError
from ..base.reading import Text
from ..base.units import without_secrets
from ..console.progress import shown
from . import model_urls

CACHE_ENV = "ECM_CLUSTER_WEIGHTS"
LARGEST = 32 << 30  # bytes, where a server does not say how many will come
RECORD = {"url": str, "sha256": Text("[0-9a-f]{64}"), "size": int, "mtime_ns": int}


@dataclass(frozen=True)
class WeightFile:
    """One file of weights that a config asks for.

    Attributes:
        key: Where in the config, dotted, list positions as numbers: ``model.backbone.init_cfg.checkpoint``.
        source: What stands there: a path, a URL or a name such as ``torchvision://resnet50``.
        url: Where it is fetched from; None for a path.
        path: Where the file is, or will be: in the cache, or the user's own.
        present: Whether it is there; then nothing is fetched.
    """

    key: str
    source: str
    url: str | None
    path: Path
    present: bool


@dataclass(frozen=True)
class Fetched:
    """A :class:`WeightFile` whose file is there: ``digest`` is ``sha256:<hex>``, ``size`` in bytes."""

    weight: WeightFile
    path: Path
    digest: str
    size: int
    downloaded: bool


def cache_folder() -> Path:
    """``$ECM_CLUSTER_WEIGHTS``, or ``ecm-cluster/weights`` in the user's cache; the nodes must see it too."""
    return folders.cache_folder(CACHE_ENV, "weights")


def place(url: str, folder: Path) -> Path:
    """Where a URL's file lies: under its own name, so that it can be put there by hand.

    Two URLs can end in the same name (``latest.pth``). Where the name holds no digest, the first one has it,
    and the next gets a name that begins with a digest of its URL.
    """
    name = model_urls.file_name(url)
    owner = None if model_urls.expected_digest(name) else _record(folder / name).get("url")
    if owner in (None, without_secrets(url)):
        return folder / name
    return folder / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}"


def fetch(weights: Iterable[WeightFile]) -> list[Fetched]:
    """Have every file in place and know its digest; what is in the cache is not fetched again.

    Raises:
        UserError: Naming URL, cause, and where to put the file by hand.
    """
    done: dict[str, Fetched] = {}
    result = []
    for weight in weights:
        name = weight.url or str(weight.path)
        if name not in done:
            done[name] = _fetch_url(weight, weight.url) if weight.url else _take(weight, weight.path)
        result.append(replace(done[name], weight=weight))
    return result


def _fetch_url(weight: WeightFile, url: str) -> Fetched:
    folder = weight.path.parent
    path = place(url, folder)
    if path.is_file():
        return _take(weight, path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(model_urls.file_name(url).encode()).hexdigest()[:16]
        with _lock(folder / f".{name}-{os.geteuid()}.lock"):
            # the one that held the lock before may have put it there, or have taken the plain name
            path = place(url, folder)
            return _take(weight, path) if path.is_file() else _download(weight, url, path)
    except OSError as error:
        raise UserError(f"{weight.key}: the cache of weights {folder} cannot be written "
                        f"({error.strerror or error}); set {CACHE_ENV} to a folder that can, or give the "
                        f"file with --set {weight.key}=PATH") from None


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold this user's lock of one file's name: two submissions at once fetch it once.

    Nobody else can hold it. Two users fetch twice, and each renames a whole file into place.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(fd).st_uid != os.geteuid():
            raise OSError(errno.EPERM, "its lock belongs to another user")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as error:
            # a file system without locks: two may fetch at once, and each renames a whole file into place
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
        yield
    finally:
        os.close(fd)


def _record_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _record(path: Path) -> dict[str, Any]:
    """What this user has on record about a file in the cache: url, sha256, size, mtime_ns; empty if nothing is."""
    with contextlib.suppress(OSError, ValueError):
        if _is_trusted(_record_file(path)):
            return files.read_json(_record_file(path), RECORD)
    return {}


def _is_trusted(path: Path) -> bool:
    """Whether nobody but the user, the administrator and the cache's owner can have put a file there."""
    folder = path.parent.stat()
    owners = {os.geteuid(), 0, *([] if folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else [folder.st_uid])}
    return {path.lstat().st_uid, path.stat().st_uid} <= owners


def _take(weight: WeightFile, path: Path) -> Fetched:
    """An existing file: checked, and read again only if it changed since its digest was recorded."""
    record = _record(path) if weight.url else {}
    other = f"give another with --set {weight.key}=PATH"
    try:
        there, trusted = path.stat(), not weight.url or _is_trusted(path)
        known = trusted and (record.get("size"), record.get("mtime_ns")) == (there.st_size, there.st_mtime_ns)
        sha = str(record.get("sha256")) if known else files.digest(path).partition(":")[2]
        fault = _visible_fault(path)
    except OSError as error:
        raise UserError(f"{weight.key}: {path} cannot be read ({error.strerror}); {other}") from None
    begins = model_urls.expected_digest(path.name) if weight.url else ""
    if not trusted and not begins and record.get("sha256") != sha:
        raise UserError(f"{weight.key}: {path} belongs to another user, and nothing says what it should hold; set "
                        f"{CACHE_ENV} to a folder of your own, or {other}")
    if not fault and not sha.startswith(begins):
        fault = f"not what its name promises: sha256 {sha[:16]}…, not {begins}…"
    if fault:
        again = f"delete it to fetch {without_secrets(weight.url)} again, or " if weight.url else ""
        again = again if trusted else f"it belongs to another user: set {CACHE_ENV} to a folder of your own, or "
        raise UserError(f"{weight.key}: {path} is {fault}; {again}{other}")
    if weight.url and record.get("url") == without_secrets(weight.url) and record.get("sha256", sha) != sha:
        raise UserError(f"{weight.key}: {path} has changed since it was fetched from {record['url']}; delete it "
                        f"to fetch it again, or delete {_record_file(path)} to accept it as it is")
    if weight.url and not known:
        with contextlib.suppress(OSError):  # a cache that others own: then the digest is worked out each time
            _write_record(path, weight.url, sha, there)
    return Fetched(weight, path, f"sha256:{sha}", there.st_size, downloaded=False)


def _write_record(path: Path, url: str, sha: str, there: os.stat_result) -> None:
    files.write_json(_record_file(path), {"url": without_secrets(url), "sha256": sha, "size": there.st_size,
                                          "mtime_ns": there.st_mtime_ns})


def _visible_fault(path: Path) -> str:
    """What is wrong with a file of weights at first sight, "" if nothing is.

    PyTorch writes zip archives, and one that was cut short lacks its end.
    """
    import zipfile  # imported here: --help and a dry run do not owe it

    with open(path, "rb") as handle:
        start = handle.read(4)
        if start == b"PK\3\4" and not zipfile.is_zipfile(handle):
            return "cut short"
    return "" if start else "empty"


def _download(weight: WeightFile, url: str, path: Path) -> Fetched:
    total = None
    what = f"{weight.key}: {without_secrets(url)}"
    by_hand = f"put the file at {path} by hand, or give its place with --set {weight.key}=PATH"
    with files.replacing(path) as handle, contextlib.ExitStack() as bar:
        out = files.Digesting(handle)
        advance: Callable[[int], None] | None = None
        for total, block in model_urls.blocks(what, url, by_hand):
            advance = advance or bar.enter_context(shown(f"fetching {weight.source}", total))
            out.write(block)
            if out.size > LARGEST:
                raise UserError(f"{what} gives more than {LARGEST >> 30} GiB; {by_hand}")
            advance(len(block))
        sha = out.digest.partition(":")[2]
        if total is not None and out.size != total:
            raise UserError(f"{what} broke off after {out.size} of {total} bytes; try again, or {by_hand}")
        if not sha.startswith(model_urls.expected_digest(path.name)):
            raise UserError(f"{what} arrived with sha256 {sha[:16]}…, but its name promises "
                            f"{model_urls.expected_digest(path.name)}…: a corrupt download; try again, or {by_hand}")
        handle.flush()
        os.fsync(handle.fileno())
        # before the file itself: one without a record could be taken for another URL's of the same name
        with contextlib.suppress(PermissionError):  # another user's is there
            _write_record(path, url, sha, os.fstat(handle.fileno()))
    return Fetched(weight, path, out.digest, out.size, downloaded=True)
