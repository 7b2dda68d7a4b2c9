"""The processes that this program starts, by name: the only file in which a string names a module.

Starting a process is not importing what it runs: a caller on a low floor names a process here, and the module stays
free to import that caller. A run's processes import the run's frozen code, which may come from an earlier version; if
that version has another module for a process, :data:`EARLIER` says which.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGE = __name__.partition(".")[0]
SOURCE = Path(str(sys.modules[PACKAGE].__file__)).resolve().parent.parent  # on PYTHONPATH, for this process's own code

MODULES = {
    "training supervisor": "ecm_cluster.node.supervise.supervise_training",
    "evaluation supervisor": "ecm_cluster.node.supervise.supervise_evaluation",
    "local driver": "ecm_cluster.node.supervise.local_driver",
    "batch-shell epilog": "ecm_cluster.node.supervise.epilog",
    "training worker": "ecm_cluster.node.training.worker",
    "evaluation worker": "ecm_cluster.node.inference.worker",
    "analysis": "ecm_cluster.node.inference.analyse",
    "page": "ecm_cluster.report",
    "checkpoint writer": "ecm_cluster.node.training.writer",
    "tracker feed": "ecm_cluster.trackers.follow",
    "tracker sync": "ecm_cluster.trackers.sync",
    "checks": "ecm_cluster.node.checks",
    "probe": "ecm_cluster.node.checks.probe",
    "notices": "ecm_cluster.notices.send",
    "submit": "ecm_cluster.submit",
    "cancel": "ecm_cluster.cancel",
    "resume": "ecm_cluster.resume",
    "folder check": "ecm_cluster.diagnosis.folder",
}
# Pickled tasks name these classes, and frozen code of every version has the first two under these names
TASKS = {
    "train": "ecm_cluster.node.task:Train",
    "evaluate": "ecm_cluster.node.task:Evaluate",
    "probe": "ecm_cluster.node.checks.probe:NodeProbe",
}
# Makes the trainer of a job that names none (``trainer: MODULE:FUNCTION``)
MMDET_TRAINER = "ecm_cluster.node.mmdet_trainer.entry:make"
# Modules, below the package, that version 0.1 had for processes which a verb starts with a run's frozen code. Runs
# of that version can be resumed and evaluated as long as these lines stand.
EARLIER = {"local driver": "node.local", "batch-shell epilog": "node.batch"}


def module(process: str, code: Path | None = None) -> str:
    """The module of a process.

    Args:
        code: The frozen code that the process will import; None: what this process imports.
    """
    name, earlier = MODULES[process], EARLIER.get(process)
    if code is None or earlier is None or _has(code, name) or not _has(code, f"{PACKAGE}.{earlier}"):
        return name
    return f"{PACKAGE}.{earlier}"


def knows(process: str, code: Path) -> bool:
    """Whether frozen code is of a version that has a process."""
    return _has(code, MODULES[process])


def _has(code: Path, name: str) -> bool:
    return (code / name.replace(".", "/")).with_suffix(".py").exists()


def command(python: str, process: str, *arguments: object, code: Path | None = None) -> list[str]:
    """The command line of a process."""
    return [python, "-m", module(process, code), *map(str, arguments)]


def imported(python: str, process: str, *arguments: object) -> list[str]:
    """The same for a module that is imported, not run as ``__main__``: what it pickles names its classes."""
    return [python, "-c", f"import {MODULES[process]} as process; process.main()", *map(str, arguments)]


def task(name: str, *arguments: str) -> Callable[[], Any]:
    """The task of a job, to be pickled: the names of its class, and its arguments, are all that the pickle holds."""
    where, _, kind = TASKS[name].partition(":")
    return getattr(importlib.import_module(where), kind)(*arguments)


def main_of(process: str) -> Callable[..., Any]:
    """What a process does, for one that has become it: a task of a job becomes its rank's supervisor."""
    return importlib.import_module(MODULES[process]).main


def runs(process: str, word: str) -> bool:
    """Whether a word of a command line is the module of a process, in this version or an earlier one."""
    return word in (MODULES[process], f"{PACKAGE}.{EARLIER.get(process, '')}")


def is_of_rank(word: str) -> bool:
    """Whether a word of a command line belongs to a supervisor or worker, in this version or an earlier one."""
    return word.startswith(("submitit.", f"{PACKAGE}.node."))
