"""Reading many small files of a file server: several at a time, each once, and with a note of what was read.

Each file costs round trips, which add up; and what has not changed since need not be read at all.
"""

from __future__ import annotations

import contextlib
import contextvars
import errno
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Tuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
# the time of the last change of content, mode or name, which nobody can set; the size; the inode
Stamp = Tuple[int, int, int]

READERS = 16
NONE_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP)
FEW, MANY = 16, 64  # items from which threads are started; from which a thread of an outer call does so

_inside: contextvars.ContextVar[bool] = contextvars.ContextVar("inside", default=False)
_noting: contextvars.ContextVar[Footprint | None] = contextvars.ContextVar("noting", default=None)


def each(act: Callable[[Item], Result], items: Sequence[Item], threads: int = READERS) -> list[Result]:
    """The results of ``act`` for each item, in order, by several threads, this one included.

    A few items are taken one after the other, unless a run is only shown: what trains starts no threads for them.

    Raises:
        Exception: What ``act`` has raised first, by the order of the items.
    """
    if len(items) < (MANY if _inside.get() else FEW if _noting.get() is None else 2):
        return [act(item) for item in items]
    results: dict[int, Result] = {}
    errors: dict[int, BaseException] = {}
    numbers = itertools.count()  # next() of it is atomic

    def work() -> None:
        _inside.set(True)
        while not errors and (number := next(numbers)) < len(items):
            try:
                results[number] = act(items[number])
            except BaseException as error:  # raised by the caller's thread; an interrupt ends the others, too
                errors[number] = error

    helpers = [threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True)
               for _ in range(min(threads, len(items)) - 1)]
    with contextlib.suppress(RuntimeError):  # the limit on threads is reached: then there are fewer
        for helper in helpers:
            helper.start()
    try:
        contextvars.copy_context().run(work)
    finally:
        for helper in helpers:
            if helper.ident is not None:
                helper.join()
    if errors:
        raise errors[min(errors)]
    return [results[number] for number in range(len(items))]


class Footprint:
    """What was read within :meth:`noting`, which may be entered again, and by several threads.

    Attributes:
        stamps: The state of each file and directory as it was read, by path; None: it does not exist.
        kept: What was made of a file, by any key: the second reader gets that, so all see the same state.
    """

    def __init__(self) -> None:
        self.stamps: dict[str, Stamp | None] = {}
        self.kept: dict[Any, Any] = {}

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        token = _noting.set(self)
        try:
            yield
        finally:
            _noting.reset(token)


def status_of(handle: int, path: str | os.PathLike) -> os.stat_result:
    """That of an open file or directory, which is noted: what is read next is of this state, or a later one."""
    found = os.fstat(handle)
    _note(path, found)
    return found


def note_missing(path: str | os.PathLike) -> None:
    """Note that a file or directory does not exist."""
    _note(path, None)


def _note(path: str | os.PathLike, found: os.stat_result | None) -> None:
    current = _noting.get()
    if current is not None:
        current.stamps.setdefault(os.fspath(path), None if found is None else stamp(found))


def stamp(found: os.stat_result) -> Stamp:
    return found.st_ctime_ns, found.st_size, found.st_ino


def once(key: Any, read: Callable[[], Result]) -> Result:
    """What ``read`` returns or raises; within a :class:`Footprint` it is asked once for each key."""
    current = _noting.get()
    if current is None:
        return read()
    if key not in current.kept:
        try:
            current.kept[key] = read(), None
        except Exception as error:
            current.kept[key] = None, error
    value, failure = current.kept[key]
    if failure is not None:
        raise failure
    return value


def listed(folder: str | os.PathLike) -> dict[str, bool]:
    """The names in a directory, which is noted, in alphabetical order; whether each is a directory.

    Raises:
        OSError: It does not exist, or cannot be read.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        status_of(handle, folder)
        with os.scandir(handle) as entries:
            return dict(sorted((entry.name, _is_folder(entry)) for entry in entries))
    finally:
        os.close(handle)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def names_in(folder: str | os.PathLike, folders: bool = False) -> list[str]:
    """The names in a directory, or only those of directories; none if it does not exist or is not permitted."""
    def read() -> dict[str, bool]:
        try:
            return listed(folder)
        except OSError as error:
            if error.errno not in NONE_THERE:
                raise
            note_missing(folder)
            return {}

    found = once(("names", os.fspath(folder)), read)
    return [name for name, is_folder in found.items() if is_folder or not folders]
