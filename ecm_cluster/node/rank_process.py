"""How a rank's worker process begins and ends, whether it trains or evaluates."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from typing import Any, NoReturn

from ..attempts import failures
from ..rundir.run import Run
from . import heartbeat
from .world import node_name


def enter(run: Run) -> None:
    """Switch to the run's working directory and thread count; nothing may be imported from that directory."""
    here = {""}
    with contextlib.suppress(FileNotFoundError):  # removed meanwhile
        here.add(os.getcwd())
    sys.path[:] = [p for p in sys.path if p not in here]
    try:
        os.chdir(run.spec.cwd)
    except OSError as error:
        os.chdir(run.logs_dir)
        print(f"warning: {run.spec.cwd}, where the run was submitted: {error.strerror}; relative paths in the config "
              "will not be found", file=sys.stderr)
    threads = str(run.spec.threads)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = threads  # read when torch is imported, so before it


def record_failure(work: Any, attempt: int, rank: int, role: str, error: BaseException) -> None:
    """Print the traceback into the rank's log, and write its last line into the ledger as the attempt's end."""
    traceback.print_exc()
    work.ledger(attempt, f"{role}{rank:03d}", patient=True).write(
        "end", **failures.end_of(error, rank), iteration=heartbeat.last().get("iteration"),
        node=node_name(), traceback=traceback.format_exc()[-8000:])  # its end names the error


def end(code: int) -> NoReturn:
    """End this process with a code that a log on a full disk, or a closed one, does not change.

    Not by ``sys.exit``: after a failure of another rank, the threads of torch and NCCL may hang in their teardown.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)
