"""Train long-tail detectors on preemptible Slurm GPUs: submit, resume, evaluate, report."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from .base.version import __version__ as __version__

if TYPE_CHECKING:
    from .interface.run import Run as Run


def __getattr__(name: str) -> Any:
    """``Run`` is imported when it is asked for: verbs and workers need none of it."""
    if name == "Run":
        from .interface import run

        return run.Run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _interrupted(number: int, frame: object) -> None:
    """Ctrl-C while modules are imported: nothing to clean up yet, so the process dies."""
    os.write(2, b"interrupted\n")
    _signal.signal(number, _signal.SIG_DFL)
    os.kill(os.getpid(), number)


if os.path.basename(sys.argv[0] if sys.argv else "") in ("-m", "ecm-cluster"):  # as a program, not as a library
    import _signal  # type: ignore[import-not-found] # built in; `signal` imports other modules first

    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _interrupted)
    from .console import program

    program.begin()
