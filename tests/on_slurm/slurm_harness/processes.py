"""The processes of one cluster: which they are, and how they end.

A process belongs to a cluster when the environment it was started with names that cluster's own slurm.conf (a
path that no other cluster has), when it lives in the mount namespace of one of its nodes, or when it descends
from such a one. No process is ever chosen by its name.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

NODE_ENV = "SLURM_HARNESS_NODE"


def _stat(pid: int) -> list[str] | None:
    """State, parent and so on: the fields of /proc/PID/stat after the command; None when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def command(pid: int) -> str:
    """The command name of a process, or an empty string when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not (PID 1 of a container may be slow)."""
    fields = _stat(pid)
    return fields is not None and fields[0] not in "ZX"


def environment(pid: int) -> dict[str, str]:
    """The environment that a process was started with; empty when it is gone, a zombie or another user's."""
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(entry.partition("=")[::2] for entry in raw.split("\0") if "=" in entry)


def _own_line() -> set[int]:
    """This process and its ancestors, which are never taken for members of a cluster."""
    line, pid = {1}, os.getpid()
    while pid > 1 and pid not in line:
        line.add(pid)
        fields = _stat(pid)
        pid = int(fields[1]) if fields else 1
    return line


def _homes(pid: int, slurm_conf: Path) -> set[str]:
    """The nodes that a process is marked with; {""} for other members of the cluster, empty for all others."""
    homes, local = set(), f"{slurm_conf.parents[1]}/local"
    env = environment(pid)
    if env.get("SLURM_CONF") == str(slurm_conf):
        # slurmstepd has the environment of its slurmd, a task that of its job
        homes.add(env.get(NODE_ENV) or env.get("SLURMD_NODENAME") or "")
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
            source, target = line.split(" ", 5)[3:5]
            if target == local:
                homes.add(source.rpartition("/")[2])
    return homes


def members(slurm_conf: Path, node: str | None = None) -> set[int]:
    """Live processes of the cluster of ``slurm_conf``; with ``node`` only its slurmd, steps and tasks."""
    spared, found = _own_line(), set()
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) in spared or not is_alive(int(entry)):
            continue
        pid, fields = int(entry), _stat(int(entry))
        if fields:
            children.setdefault(int(fields[1]), []).append(pid)
        homes = _homes(pid, slurm_conf)
        if homes and (node is None or node in homes):
            found.add(pid)
    todo = list(found)
    while todo:
        for child in children.get(todo.pop(), []):
            if child not in found:
                found.add(child)
                todo.append(child)
    return found


def end(slurm_conf: Path, node: str | None = None, seconds: float = 20) -> None:
    """SIGKILL every member until none is left; RuntimeError when some still live after ``seconds``."""
    deadline = time.monotonic() + seconds
    while left := members(slurm_conf, node):
        signal_all(left, signal.SIGSTOP)  # a parent must not start another child meanwhile
        signal_all(left, signal.SIGKILL)
        if time.monotonic() > deadline:
            names = ", ".join(f"{command(pid)} {pid}" for pid in sorted(left))
            raise RuntimeError(f"still alive {seconds:.0f} s after SIGKILL: {names}")
        time.sleep(0.05)


def signal_all(pids: Iterable[int], number: int) -> None:
    """Send a signal to each process that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
