"""Making a pack: a data root in folders and zip files becomes a few large files, whole or not at all.

Everything is written into ``OUT.partial``, which is renamed when it is complete. What a killed call has completed there
has a record beside it, and the next call resumes after it, as long as names, sizes and times of all files in the data
root are the same.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..base import files
from ..base.disk import close_folder
from ..base.errors import Failed, UserError
from ..base.reading import Unreadable
from .contents import FINGERPRINT, WORK, Options, Show, fill, first_of
from .manifest import ANNOTATIONS, IMAGES, MANIFEST, Pack, is_pack, read
from .sources import scan

LOCK = ".lock"  # in the folder that becomes the pack


@dataclass(frozen=True)
class Packing:
    """What a call has done.

    Attributes:
        done: ``packed`` or ``nothing to do``.
        written: Bytes of images that the call has written, and the seconds that it took.
    """

    pack: Pack
    done: str
    written: tuple[int, float] = (0, 0.0)


def pack(root: Path, out: Path, options: Options, show: Show, say: Callable[[str], None]) -> Packing:
    """Pack a data root.

    Args:
        show: Shows progress: called with a word and the number of bytes, returns a function to call with those done.

    Raises:
        UserError: Something that the user can fix; what is complete is kept.
        OSError: The pack cannot be written; what is complete is kept.
    """
    root, out = root.absolute(), Path(os.path.realpath(out))
    _check_place(root, out)
    partial, previous = Path(f"{out}.partial"), out.with_name(f".{out.name}{files.TMP_MARK}former")
    sources = scan(root, leave_out=(out, partial, previous))
    if sources.skipped:
        say(f"skipped: {len(sources.skipped)} files that are not images ({first_of(sources.skipped)})")
    fingerprint = sources.fingerprint(options.shard_size)
    existing = _existing(out, fingerprint, options.replace)
    if existing is not None:
        shutil.rmtree(previous, ignore_errors=True)  # a call was killed while it removed that
        return Packing(existing, "nothing to do")
    with _locked(partial):
        existing = _existing(out, fingerprint, options.replace)
        if existing is not None:  # another call has made it in the meantime
            shutil.rmtree(partial, ignore_errors=True)
            return Packing(existing, "nothing to do")
        _resume_or_start_over(partial, fingerprint, say)
        written = 0, 0.0
        if not is_pack(partial):
            with _removed_if_refused(partial):
                written = fill(partial, sources, fingerprint, options, show, say)
        _publish(partial, out, previous)
    return Packing(read(out), "packed", written)


def _check_place(root: Path, out: Path) -> None:
    real = Path(os.path.realpath(root))
    if out == real or out in real.parents:
        raise UserError(f"OUT: {out} contains the data root; use a folder of its own")
    if not out.parent.is_dir():
        raise UserError(f"OUT: {out.parent} is not a directory; create it first, or use another OUT")


def _existing(out: Path, fingerprint: str, replace: bool) -> Pack | None:
    """The pack at ``out`` if it holds this data; None where one has to be made."""
    if not os.path.lexists(out):
        return None
    if not is_pack(out):
        if out.is_dir() and not any(out.iterdir()):
            return None
        raise UserError(f"OUT: {out} exists and is not a pack; use another OUT, or remove it")
    if replace:
        return None
    existing = read(out)
    if _fingerprint(out) != fingerprint:
        raise UserError(f"OUT: {out} is a pack of other data, or has other shards; --replace packs again in its place")
    for packed in existing.files:
        path = out / packed.name
        if not path.is_file() or path.stat().st_size != packed.size:
            raise UserError(f"OUT: {path} does not exist, or has another size than when it was packed; --replace packs "
                            "again")
    return existing


@contextlib.contextmanager
def _locked(partial: Path) -> Iterator[None]:
    """Create the folder in which the pack is made, and hold its lock."""
    while True:
        with contextlib.suppress(FileExistsError):
            partial.mkdir(mode=0o700)  # until it is complete: its name is known, and others may write beside it
        with contextlib.suppress(FileNotFoundError):  # just now renamed by the process that made it
            problem = close_folder(partial)
            if problem is not None:
                raise UserError(f"OUT: {partial} is {problem}; remove it, or use another OUT")
            (partial / LOCK).touch()
            try:
                with files.locked(partial / LOCK, patience=0):
                    if (partial / LOCK).exists():
                        yield
                        return
            except BlockingIOError:
                raise UserError(f"OUT: another process is packing into {partial}; wait for it, or end it") from None


@contextlib.contextmanager
def _removed_if_refused(partial: Path) -> Iterator[None]:
    """Remove the folder if the data is refused before any image is packed; after an error of the storage it is kept."""
    try:
        yield
    except UserError as error:
        if not isinstance(error, Failed) and not any((partial / IMAGES).glob("*.tar")):
            shutil.rmtree(partial, ignore_errors=True)
        raise


def _fingerprint(folder: Path) -> object:
    """That of the data that a pack was made of; None where it is not on record."""
    try:
        return files.read_json(folder / MANIFEST, dict).get(FINGERPRINT)
    except (FileNotFoundError, Unreadable):
        return None


def _resume_or_start_over(partial: Path, fingerprint: str, say: Callable[[str], None]) -> None:
    """Keep what an earlier call has completed, if it was of the same data."""
    record = partial / WORK / FINGERPRINT
    complete = _fingerprint(partial) == fingerprint
    same = complete or (record.is_file() and record.read_bytes() == fingerprint.encode())
    if same:
        say("resuming from what an earlier call has completed")
        for left in list(partial.rglob(f".*{files.TMP_MARK}*")):
            left.unlink()
    others = [] if same else [path for path in partial.iterdir() if path.name != LOCK]
    if others:
        say(f"starting over: {partial} is of other data, or has other shards")
    # the record is removed first: nothing resumes from what a killed removal has left
    for path in sorted(others, key=lambda p: p.name not in (WORK, MANIFEST)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for folder in (partial / WORK / IMAGES, partial / WORK / ANNOTATIONS, partial / ANNOTATIONS):
        folder.mkdir(parents=True, exist_ok=True)
    files.write_text(record, fingerprint)


def _publish(partial: Path, out: Path, previous: Path) -> None:
    """Rename the complete pack; one that is in its place is moved aside first, and then removed."""
    shutil.rmtree(partial / WORK, ignore_errors=True)
    files.fsync_dir(partial)
    if previous.exists():
        shutil.rmtree(previous)
    umask = os.umask(0o077)
    os.umask(umask)
    close_folder(partial, 0o777 & ~umask & ~stat.S_IWOTH)
    files.kill_point("before-pack", out)
    if is_pack(out):
        # rename(2) does not replace a folder that has files
        out.rename(previous)
        files.kill_point("previous-aside", out)
    partial.rename(out)
    files.kill_point("after-pack", out)
    files.fsync_dir(out.parent)
    # after the rename: without it another call would make a lock of its own, and pack into this folder
    (out / LOCK).unlink(missing_ok=True)
    shutil.rmtree(previous, ignore_errors=True)
