"""Options of sbatch and srun in the blocks ``slurm:`` and ``srun:`` of a job file: which are allowed there.

In ``slurm:`` a value adds a line to the script, or replaces the launcher's own line of that name; null omits the
launcher's line. In ``srun:`` a value is one more option of the ``srun`` that starts the tasks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..base.errors import UserError, shown

_NO_JOB = "it is not an option of a job"
_REQUEUE = "a run resumes by being requeued"
_LOGS = "logs are in the run directory"
_TASKS = "one task runs on each GPU; use nodes and gpus"
_OWNER = "a run belongs to the user who submits it"
# options that a user cannot set: why, or what to use; besides those that a key of the job sets
RESERVED = {
    "output": _LOGS, "error": _LOGS, "open-mode": "logs are always appended",
    "array": "evaluations are the only arrays", "dependency": "the chain sets it",
    "job-name": "use name", "nodes": "use nodes", "ntasks": "use nodes and gpus", "ntasks-per-node": "use gpus",
    "gpus-per-node": "use gpus and gpu_type",
    "gpus": "Slurm may spread a total unevenly over the nodes; use gpus and gpu_type",
    "time": "use time", "cpus-per-task": "use cpus_per_gpu", "signal": "use signal_lead",
    "kill-on-invalid-dep": "the chain sets it", "requeue": _REQUEUE, "no-requeue": _REQUEUE,
    "chdir": "jobs start in the run directory, where no checkout can hide the run's own code",
    "clusters": "a run belongs to one cluster; submit it from a login node of that cluster",
    "cluster-constraint": "a run belongs to one cluster; submit it from a login node of that cluster",
    "ntasks-per-core": _TASKS, "ntasks-per-gpu": _TASKS, "ntasks-per-socket": _TASKS, "overcommit": _TASKS,
    "input": "the batch script reads nothing", "no-kill": "when a node fails, the others end",
    "uid": _OWNER, "gid": _OWNER, "quiet": "the job's id is read from what sbatch prints",
    "wait": "use --wait", "wrap": _NO_JOB, "test-only": _NO_JOB, "parsable": _NO_JOB, "help": _NO_JOB,
    "usage": _NO_JOB, "version": _NO_JOB,
}
# lines of the launcher that no run can do without
NEEDED = {"output", "array", "dependency", "nodes", "ntasks-per-node"}
# options that request GPUs, or memory, in another way than the launcher's own line
FOR_GPUS = {"gres", "gpus-per-task", "gpus-per-socket", "tres-per-task", "tres-per-node"}
FOR_MEMORY = {"mem", "mem-per-cpu", "mem-per-gpu"}
LONGEST = 2000  # characters of a value
KNOWN = {*RESERVED, *FOR_GPUS, *FOR_MEMORY, "comment", "wckey", "exclusive", "export"}
# options of srun that the launcher sets, or that come from the job
_STEP = "the step has all of the job"
SRUN_RESERVED = {
    "kill-on-bad-exit": "when a rank dies, the others end", "cpus-per-task": "use cpus_per_gpu", "nodes": _STEP,
    "ntasks": _STEP, "ntasks-per-node": _STEP, "nodelist": _STEP, "exclude": "use exclude", "relative": _STEP,
    "time": "use time", "jobid": _STEP, "overlap": _STEP, "multi-prog": "every task runs the same program",
    "output": _LOGS, "error": _LOGS, "input": "tasks read nothing", "open-mode": "logs are always appended",
    "ntasks-per-core": _STEP, "ntasks-per-gpu": _STEP, "ntasks-per-socket": _STEP, "overcommit": _STEP,
    "nodefile": _STEP, "het-group": _STEP, "no-allocate": _STEP, "preserve-env": _STEP, "uid": _OWNER, "gid": _OWNER,
    "label": "the end of a step is read from its log", "unbuffered": "it is set", "pty": "tasks have no terminal",
    "export": "tasks get the environment of the job's script; use env", "chdir": _LOGS,
    "wait": "it is not used", "signal": "use signal_lead", "no-kill": "when a node fails, the others end",
    "test-only": _NO_JOB, "help": _NO_JOB, "usage": _NO_JOB, "version": _NO_JOB,
}


def name_of(key: str) -> str:
    """An option as sbatch spells it."""
    return key.lstrip("-").replace("_", "-")


def check(options: Mapping[str, Any], own: Mapping[str, str]) -> None:
    """Reject what is not allowed in the block ``slurm:``; ``own``: options that are written from a key of the job.

    Raises:
        UserError: In one line, with the reason.
    """
    reserved = {**RESERVED, **{name: f"use {key}" for name, key in own.items()}}
    for key, value in options.items():
        name = name_of(key)
        if value is None and name in NEEDED:
            raise UserError(f"option {shown(key)} cannot be omitted; {RESERVED[name]}")
        if value is not None and name in reserved:
            also = "" if name in NEEDED else "; null omits the launcher's line"
            raise UserError(f"option {shown(key)} is set by the launcher itself; {reserved[name]}{also}")
        _check_spelling(key, "sbatch", {*KNOWN, *own})
        if value is not None:
            _check_text(key, value, "true or false, or null to omit the launcher's line")


def check_srun(options: Mapping[str, Any]) -> None:
    """Reject what is not allowed in the block ``srun:``; as :func:`check`."""
    for key, value in options.items():
        name = name_of(key)
        if name in SRUN_RESERVED:
            raise UserError(f"option {shown(key)} is set by the launcher itself; {SRUN_RESERVED[name]}")
        _check_spelling(key, "srun", set(SRUN_RESERVED))
        _check_text(key, value, "or true or false")


def check_spelled_once(block: str, options: Mapping[str, Any]) -> None:
    """Raise :class:`UserError` if a block has one option in two spellings: only one of them would take effect."""
    known: dict[str, str] = {}
    for key in options:
        if known.setdefault(name_of(key), key) != key:
            raise UserError(f"{block}: options {known[name_of(key)]!r} and {key!r} are the same; use one of them")


def _check_spelling(key: str, command: str, known: set[str]) -> None:
    name = name_of(key)
    if len(name) > 60 or len(name) > 1 and not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise UserError(f"option {shown(key)} is not a name of {command}'s long options; expected one such as "
                        "mail-type")
    # both commands accept a prefix of an option
    if len(name) < 2 or (name not in known and any(full.startswith(name) for full in known)):
        raise UserError(f"option {shown(key)} is an abbreviation; spell it out as {command}'s long options are")


def _check_text(key: str, value: Any, also: str) -> None:
    if not isinstance(value, (str, int, float)) or not str(value).isprintable() or len(str(value)) > LONGEST:
        raise UserError(f"option {shown(key)}: invalid value {shown(value)}; expected one line of text, a number, "
                        f"{also}")


def srun_arguments(options: Mapping[str, Any]) -> list[str]:
    """The block ``srun:`` as words of a command line; true is an option without a value, false omits it."""
    return [f"--{name_of(key)}" if value is True else f"--{name_of(key)}={value}"
            for key, value in options.items() if value is not False]


def requests_gpus(name: str, value: Any) -> bool:
    return name in FOR_GPUS and (name.startswith("gpus") or "gpu" in str(value))


def own(options: Mapping[str, Any], gpus: int) -> dict[str, Any]:
    """The options by sbatch's names, with ``gpus`` for each node (0: none, regardless of the options)."""
    found = {name_of(key): value for key, value in options.items() if value is not False}
    if not gpus:
        return {name: value for name, value in found.items() if not requests_gpus(name, value)}
    counts = {"gres": gpus, "gpus-per-task": 1}
    return {name: _counted(value, counts[name]) if name in counts and requests_gpus(name, value) else value
            for name, value in found.items()}


def _counted(value: Any, count: int) -> str:
    """``gpu:a100:8,nvme:1`` with another number of GPUs; of ``a100:8`` and ``8`` alike."""
    parts = []
    for part in str(value).split(","):
        words = part.split(":")
        if "gpu" in str(value) and words[0] != "gpu":
            parts.append(part)
        else:
            parts.append(":".join([*(w for w in words if not re.fullmatch("[0-9]+", w)), str(count)]))
    return ",".join(parts)


def omitted(options: Mapping[str, Any]) -> set[str]:
    """Lines of the launcher, and of submitit, that are not written beside these options (see :func:`own`)."""
    given = {name for name, value in options.items() if value is not None}
    gone = {name for name, value in options.items() if value is None}
    if "wckey" not in given:
        gone.add("wckey")  # submitit always sends its own
    if any(requests_gpus(name, options[name]) for name in given):
        gone.add("gpus-per-node")
    if given & FOR_MEMORY - {"mem"}:
        gone.add("mem")
    return gone
