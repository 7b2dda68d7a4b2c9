"""The lock under which a run of a name is made: of two submissions that are typed at once, one makes it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from ..base import files
from ..base.errors import UserError
from ..job import sharing
from ..rundir.run import Run
from . import submissions


@contextlib.contextmanager
def alone(run: Run) -> Iterator[None]:
    """Be the only one that makes the run of this name: a second submission waits, and then finds it there."""
    made = [folder for folder in (run.path, *run.path.parents) if not folder.exists()]
    with contextlib.ExitStack() as stack:
        try:
            while not _locked(run, stack):
                pass
        except BlockingIOError:
            raise UserError(f"name: another submission of {run.name!r} is still under way; wait for it, or give "
                            "another --name") from None
        except (FileExistsError, NotADirectoryError):
            pass  # something else is there, which `create` names
        except OSError as error:
            raise not_made(run, error) from None
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                run.submit_lock.unlink()
                for folder in made:
                    folder.rmdir()  # where no run came of it


def _locked(run: Run, stack: contextlib.ExitStack) -> bool:
    """Take the lock of a submission; False where the one who held it has taken the file away meanwhile."""
    def tell() -> None:
        print(f"{run.name}: another submission of this name is under way; waiting for it", file=sys.stderr, flush=True)

    with contextlib.suppress(FileExistsError):
        sharing.make(run.path)
    require_own_folder(run)
    files.private_file(run.submit_lock)
    handle = stack.enter_context(files.locked(run.submit_lock, submissions.PATIENCE, tell))
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), run.submit_lock.stat())
    return False


def require_own_folder(run: Run) -> None:
    """Refuse a folder that another user has made in advance, and in which he could exchange what a job runs.

    Raises:
        FileExistsError: It is no folder.
        UserError: It, or the link that leads there, belongs to somebody else.
    """
    if not run.path.is_dir():
        raise FileExistsError(run.path)
    if {run.path.lstat().st_uid, run.path.stat().st_uid} != {os.geteuid()}:
        raise UserError(f"name: {run.path} belongs to another user (uid {run.path.stat().st_uid}); give another --name "
                        "or --runs-dir")


def not_made(run: Run, error: OSError) -> UserError:
    """The error for a run directory that cannot be made."""
    return UserError(f"runs-dir: {run.path} cannot be made ({error.strerror or error}); give a place to write to by "
                     "--runs-dir")
