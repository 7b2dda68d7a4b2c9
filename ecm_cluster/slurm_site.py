"""How this cluster is configured, and what time it is there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

from . import cluster


def setting(name: str) -> str:
    """A line of ``scontrol show config``; empty where Slurm does not answer."""
    out = cluster.ask("scontrol", "show", "config", timeout=5.0) or ""
    found = re.search(rf"^{name}\s*=\s*(.*?)\s*$", out, re.MULTILINE)
    return found[1] if found else ""


def seconds_left(answer: Mapping[str, str] | None) -> float | None:
    """Seconds until a job's EndTime, from ``cluster.show_job``; None if it has none.

    Both times are slurmctld's own: this host's clock may differ.
    """
    out = cluster.ask("scontrol", "show", "config", timeout=5.0) or ""
    now = re.search(r"^Configuration data as of (\S+)", out, re.MULTILINE)
    try:
        return (datetime.fromisoformat((answer or {})["EndTime"]) - datetime.fromisoformat(now[1])).total_seconds() \
            if now else None
    except (KeyError, ValueError):
        return None


def hosts(nodes: str) -> list[str]:
    """The names that a host list such as ``n[1-3]`` stands for."""
    if nodes in ("", "(null)"):
        return []
    return (cluster.ask("scontrol", "show", "hostnames", nodes, timeout=5.0) or nodes.replace(",", "\n")).split()


def preempt_mode(job: Mapping[str, str]) -> str:
    """What Slurm does to a job when it preempts it, in capitals: by its QOS where that decides, else by its partition.

    Empty where that cannot be told: the database of QOSes may be out of a compute node's reach.
    """
    if setting("PreemptType") != "preempt/qos":
        return {p.name: p.preempt_mode.upper() for p in cluster.partitions()}.get(job.get("Partition", ""), "")
    out = cluster.ask("sacctmgr", "show", "qos", "format=Name,PreemptMode", "-nP", timeout=5.0) or ""
    modes = {name: mode.upper() for name, _, mode in (line.partition("|") for line in out.splitlines())}
    mode = modes.get(job.get("QOS", ""), "")
    return setting("PreemptMode").upper() if mode == "CLUSTER" else mode
