"""The two locks of a run: one to create it, one to submit and cancel its jobs."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from ..base import files
from ..base.errors import UserError
from ..job import sharing
from ..rundir.run import Run
from ..slurm.launcher import SUBMIT_TIMEOUT

PATIENCE = 2.0 * SUBMIT_TIMEOUT + 60.0  # seconds, for another process that submits a chain: two calls of sbatch
PATIENCE_ON_NODES = 600.0  # for the other jobs of a run that submit successors; Slurm ends the wait with the grace

_held: dict[Path, list[int]] = {}


@contextlib.contextmanager
def run_lock(run: Run, patience: float = PATIENCE) -> Iterator[None]:
    """Hold the right to submit and cancel jobs of a run; taking it again within it does nothing.

    Raises:
        UserError: Another process holds it.
    """
    if run.path in _held:
        yield
        return
    run.require_own("change")
    tell = functools.partial(print, f"{run.name}: waiting for another process that is submitting or cancelling its "
                             "jobs", file=sys.stderr, flush=True)
    try:
        with contextlib.ExitStack() as stack:
            handles = [stack.enter_context(files.locked(path, patience, tell)) for path in _run_lock_files(run)]
            _held[run.path] = handles
            try:
                yield
            finally:
                del _held[run.path]
    except BlockingIOError:
        raise UserError(f"RUN: another process is submitting or cancelling jobs of {run.name}; try again when it is "
                        "done") from None
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise UserError(f"RUN: {error.filename} cannot be changed ({error.strerror}); ask its owner") from None


def _run_lock_files(run: Run) -> list[Path]:
    """What has to be locked: the run's own lock file, and what earlier versions lock.

    That is run.json, which everybody who can read it can lock, too. So it counts where nobody else can reach it, and in
    runs of those versions, whose jobs use their own code.
    """
    own = [run.lock_file] if run.lock_file.exists() else []
    # always in this order: two that took them in opposite ones would wait for each other
    return own if own and run.path.stat().st_mode & 0o077 else [*own, run.run_file]


def held(run: Run) -> list[int]:
    """The run lock's descriptors, for sbatch to inherit: the lock lasts as long as either lives."""
    return _held.get(run.path, [])


@contextlib.contextmanager
def creation_lock(run: Run) -> Iterator[None]:
    """Hold the right to create the run of this name: a second submission waits, and then finds the run."""
    made = [folder for folder in (run.path, *run.path.parents) if not folder.exists()]
    with contextlib.ExitStack() as stack:
        try:
            while not _take_creation_lock(run, stack):
                pass
        except BlockingIOError:
            raise UserError(f"name: another submission of {run.name!r} is still in progress; wait for it, or give "
                            "another --name") from None
        except (FileExistsError, NotADirectoryError):
            pass  # something else is there, which `create` names
        except OSError as error:
            raise not_created(run, error) from None
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                run.submit_lock.unlink()
                for folder in made:
                    folder.rmdir()  # where no run came of it


def _take_creation_lock(run: Run, stack: contextlib.ExitStack) -> bool:
    """False where the process that held it has removed the file meanwhile."""
    tell = functools.partial(print, f"{run.name}: waiting for another submission of this name", file=sys.stderr,
                             flush=True)
    with contextlib.suppress(FileExistsError):
        sharing.make(run.path)
    require_own_folder(run)
    files.private_file(run.submit_lock)
    handle = stack.enter_context(files.locked(run.submit_lock, PATIENCE, tell))
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), run.submit_lock.stat())
    return False


def require_own_folder(run: Run) -> None:
    """Refuse a folder that another user has made in advance, and in which they could replace what a job runs.

    Raises:
        FileExistsError: It is not a directory.
        UserError: It, or the link that leads there, belongs to another user.
    """
    if not run.path.is_dir():
        raise FileExistsError(run.path)
    if {run.path.lstat().st_uid, run.path.stat().st_uid} != {os.geteuid()}:
        raise UserError(f"name: {run.path} belongs to another user (uid {run.path.stat().st_uid}); use another --name "
                        "or --runs-dir")


def not_created(run: Run, error: OSError) -> UserError:
    """The error for a run directory that could not be created."""
    return UserError(f"runs-dir: could not create {run.path} ({error.strerror or error}); use a writable --runs-dir")
