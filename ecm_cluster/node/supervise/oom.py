"""Whether the kernel has killed something for lack of memory: a worker that it kills cannot record that."""

from __future__ import annotations

import re
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def kills(own: Path = Path("/proc/self/cgroup"), mounted: Path = CGROUPS) -> int:
    """How many processes of this one's memory cgroup the kernel has killed so far; 0 where none can be looked at.

    Slurm (with ConstrainRAMSpace) and containers give a job's tasks such a cgroup. Version 1 counts in
    ``memory.oom_control``, version 2 in ``memory.events``.

    Args:
        own: The cgroups of this process, as the kernel lists them.
        mounted: Where their file systems are mounted.
    """
    try:
        for line in own.read_text(encoding="utf-8").splitlines():
            number, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                return _count(mounted / "memory" / path.lstrip("/") / "memory.oom_control")
        return _count(mounted / path.lstrip("/") / "memory.events")
    except (OSError, ValueError, UnboundLocalError):
        return 0


def _count(path: Path) -> int:
    found = re.search(r"^oom_kill (\d+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return int(found[1]) if found else 0
