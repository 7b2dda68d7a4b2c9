"""Train long-tail detectors on preemptible Slurm GPUs: submit, resume, evaluate, report."""

from __future__ import annotations

import os
import sys
from typing import Any

__version__ = "0.1.0"


def _in_one_line(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Ctrl-C while the module is imported that handles everything else."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if os.path.basename(sys.argv[0] if sys.argv else "") in ("-m", "ecm-cluster"):  # as a program, not as a library
    sys.excepthook = _in_one_line
    from . import program

    program.begin()
