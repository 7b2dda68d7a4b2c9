"""Making a pack: a data root in folders and zip files becomes a few large files, whole or not at all.

Everything is written into ``OUT.partial`` and takes its name when it is whole. What a killed call has completed there
has a record beside it, and the next call goes on behind it, as long as names, sizes and times of all files in the data
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
from .filling import PLAN, WORK, Options, Show, Written, fill
from .pack import ANNOTATIONS, IMAGES, MANIFEST, Pack, is_pack, read
from .sources import first_of, scan

NOTHING = Written(0, 0.0)
LOCK = ".lock"  # in the folder that becomes the pack


@dataclass(frozen=True)
class Outcome:
    """What a call has done.

    Attributes:
        done: ``packed`` or ``nothing to do``.
        written: Of images, by this call.
    """

    pack: Pack
    done: str
    written: Written


def pack(root: Path, out: Path, options: Options, show: Show, say: Callable[[str], None]) -> Outcome:
    """Pack a data root.

    Args:
        out: Folder of the pack.
        show: Shows progress: called with a word and the number of bytes, gives a function to call with those done.
        say: Told what the user may want to know, in one line.

    Raises:
        UserError: Something that the user can mend; what is complete is kept.
        OSError: The pack cannot be written; what is complete is kept.
    """
    root, out = root.absolute(), Path(os.path.realpath(out))
    _check_place(root, out)
    partial, former = Path(f"{out}.partial"), out.with_name(f".{out.name}{files.TMP_MARK}former")
    sources = scan(root, leave_out=(out, partial, former))
    if sources.passed_over:
        say(f"passed over, as they are no images: {len(sources.passed_over)} files ({first_of(sources.passed_over)})")
    fingerprint = sources.fingerprint(options.shard_size)
    there = _is_there(out, fingerprint, options.replace)
    if there is not None:
        shutil.rmtree(former, ignore_errors=True)  # a call was killed while it removed that
        return Outcome(there, "nothing to do", NOTHING)
    with _alone(partial):
        there = _is_there(out, fingerprint, options.replace)
        if there is not None:  # another call has made it meanwhile
            shutil.rmtree(partial, ignore_errors=True)
            return Outcome(there, "nothing to do", NOTHING)
        _go_on_or_begin(partial, fingerprint, say)
        written = NOTHING
        if not is_pack(partial):
            with _nothing_left_of_a_mistake(partial):
                written = fill(partial, sources, fingerprint, options, show, say)
        _take_place(partial, out, former)
    return Outcome(read(out), "packed", written)


def _check_place(root: Path, out: Path) -> None:
    real = Path(os.path.realpath(root))
    if out == real or out in real.parents:
        raise UserError(f"OUT: {out} holds the data root; give a folder of its own")
    if not out.parent.is_dir():
        raise UserError(f"OUT: {out.parent} is no folder; make it first, or give another OUT")


def _is_there(out: Path, fingerprint: str, replace: bool) -> Pack | None:
    """The pack at ``out`` if it is of this data; None where one has to be made."""
    if not os.path.lexists(out):
        return None
    if not is_pack(out):
        if out.is_dir() and not any(out.iterdir()):
            return None
        raise UserError(f"OUT: {out} is there, and is no pack; give another OUT, or take it away")
    if replace:
        return None
    there = read(out)
    if _plan(out) != fingerprint:
        raise UserError(f"OUT: {out} is a pack of other data, or in other shards; --replace packs again in its place")
    for packed in there.files:
        path = out / packed.name
        if not path.is_file() or path.stat().st_size != packed.size:
            raise UserError(f"OUT: {path} is missing, or has another size than when it was packed; --replace packs "
                            "again")
    return there


@contextlib.contextmanager
def _alone(partial: Path) -> Iterator[None]:
    """Hold the folder in which the pack is made; only one process can."""
    while True:
        with contextlib.suppress(FileExistsError):
            partial.mkdir(mode=0o700)  # until it is whole: its name can be foretold, and others may write beside it
        with contextlib.suppress(FileNotFoundError):  # it was renamed this moment, by the one that made it
            problem = close_folder(partial)
            if problem is not None:
                raise UserError(f"OUT: {partial} is {problem}; remove it, or give another OUT")
            (partial / LOCK).touch()
            try:
                with files.locked(partial / LOCK, patience=0):
                    if (partial / LOCK).exists():
                        yield
                        return
            except BlockingIOError:
                raise UserError(f"OUT: another process is packing into {partial}; wait for it, or end it") from None


@contextlib.contextmanager
def _nothing_left_of_a_mistake(partial: Path) -> Iterator[None]:
    """Remove the folder where the data is refused before any images are packed; what a place did not give is kept."""
    try:
        yield
    except UserError as error:
        if not isinstance(error, Failed) and not any((partial / IMAGES).glob("*.tar")):
            shutil.rmtree(partial, ignore_errors=True)
        raise


def _plan(folder: Path) -> object:
    """The fingerprint of the data that a pack was made of; None where it does not say so."""
    try:
        return files.read_json(folder / MANIFEST, dict).get(PLAN)
    except (FileNotFoundError, Unreadable):
        return None


def _go_on_or_begin(partial: Path, fingerprint: str, say: Callable[[str], None]) -> None:
    """Keep what a former call has completed, if it was about the same data."""
    record = partial / WORK / PLAN
    whole = _plan(partial) == fingerprint
    same = whole or (record.is_file() and record.read_bytes() == fingerprint.encode())
    if same:
        say("going on with what a former call has completed")
        for left in list(partial.rglob(f".*{files.TMP_MARK}*")):
            left.unlink()
    others = [] if same else [path for path in partial.iterdir() if path.name != LOCK]
    if others:
        say(f"beginning anew: what is in {partial} is of other data, or in other shards")
    # the record goes first: what is left of a removal that was killed is not gone on with
    for path in sorted(others, key=lambda p: p.name not in (WORK, MANIFEST)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for folder in (partial / WORK / IMAGES, partial / WORK / ANNOTATIONS, partial / ANNOTATIONS):
        folder.mkdir(parents=True, exist_ok=True)
    files.write_text(record, fingerprint)


def _take_place(partial: Path, out: Path, former: Path) -> None:
    """Let the pack be seen; one that was there goes aside, and is removed after."""
    shutil.rmtree(partial / WORK, ignore_errors=True)
    files.fsync_dir(partial)
    if former.exists():
        shutil.rmtree(former)
    umask = os.umask(0o077)
    os.umask(umask)
    close_folder(partial, 0o777 & ~umask & ~stat.S_IWOTH)
    files.kill_point("before-pack", out)
    if is_pack(out):
        out.rename(former)
        files.kill_point("former-aside", out)
    partial.rename(out)
    files.kill_point("after-pack", out)
    files.fsync_dir(out.parent)
    (out / LOCK).unlink(missing_ok=True)
    shutil.rmtree(former, ignore_errors=True)
