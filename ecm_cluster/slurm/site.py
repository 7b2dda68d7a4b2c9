"""Properties of this cluster: its partitions, what preempts a job and how, and whether it would accept one."""

from __future__ import annotations

import os
import pwd
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ..base.errors import UserError
from ..console import shell
from ..job.job import Job
from . import commands, launcher

# answers of `sbatch --test-only` for jobs that sbatch queues all the same: it asks when they would start
MAY_QUEUE = ("Requested node configuration is not available", "Invalid time specified", "Requested nodes are busy",
             "Requested partition configuration not available now", "Required node not available",
             "Requested reservation not usable now", "Reservation not usable now", "Licenses not available now")
AT_WORK = ("idle", "alloc", "mix", "comp", "plan")  # states of working nodes, by their beginning


@dataclass(frozen=True)
class Partition:
    """A partition, from ``scontrol show partition``."""

    name: str
    default: bool
    preempt_mode: str
    grace: int
    max_time: str
    nodes: int | None = None
    cpus: int | None = None
    fields: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)  # everything that Slurm reports


@dataclass(frozen=True)
class Preemption:
    """What happens to a job that is preempted.

    Attributes:
        mode: ``OFF``, ``SUSPEND``, ``REQUEUE`` or ``CANCEL``; empty: unknown.
        grace: Seconds between the signal and the end.
        where: What they come from, in words.
    """

    mode: str
    grace: int
    where: str

    @property
    def ends_the_job(self) -> bool:
        return self.mode in ("REQUEUE", "CANCEL")

    def describe(self) -> str:
        """What the launcher does about it, in words."""
        return {"OFF": f"never preempted ({self.where})",
                "SUSPEND": f"when preempted ({self.where}): stopped in memory and continued; nothing is lost",
                "REQUEUE": f"when preempted ({self.where}, grace {self.grace} s): commit, requeue, continue",
                "CANCEL": f"when preempted ({self.where}, grace {self.grace} s): commit, then a successor job is "
                          "submitted"}.get(self.mode, f"when preempted: depends on {self.where}")


def _mode(words: str) -> str:
    """The mode that ends or stops jobs, of those that Slurm lists: ``GANG,SUSPEND``, ``REQUEUE,WITHIN``."""
    known = {word.strip().upper() for word in words.split(",")}
    found = next((mode for mode in ("REQUEUE", "CANCEL", "SUSPEND") if mode in known), "")
    return found or ("SUSPEND" if "GANG" in known else "OFF" if "OFF" in known else "")


def silence() -> str | None:
    """Why Slurm cannot be reached from here, in its own words if it has any; None if it responds."""
    if not commands.slurm_available():
        return "no sbatch in PATH"
    said = ""
    for command in (("scontrol", "ping"), ("sinfo", "-h")):  # under load one command alone may fail
        # 5 s, as for all that this file asks: a user waits for it, or a job in its grace
        done = commands.run_command(*command, timeout=5.0)
        if done is not None and done.returncode == 0:
            return None
        # the last message is the most general; earlier ones say how Slurm looked for its configuration
        said = commands.said(done.stderr).rpartition("; ")[2] if done is not None and done.stderr else said
    return said or "scontrol and sinfo do not answer"


def partitions() -> list[Partition]:
    """All partitions, including hidden ones; empty if Slurm does not answer."""
    out = commands.ask("scontrol", "-a", "-o", "show", "partition", timeout=5.0) or ""
    found = []
    for line in out.splitlines():
        pairs = dict(p.split("=", 1) for p in line.split() if "=" in p)
        if "PartitionName" in pairs:
            nodes, cpus = (int(pairs[key]) if pairs.get(key, "").isdigit() else None
                           for key in ("TotalNodes", "TotalCPUs"))
            found.append(Partition(pairs["PartitionName"], pairs.get("Default") == "YES", pairs.get("PreemptMode", ""),
                                   seconds(pairs.get("GraceTime", "")), pairs.get("MaxTime", ""), nodes, cpus, pairs))
    return found


def max_array_size() -> int:
    """The maximum number of elements of a job array; Slurm's default if it does not answer."""
    size = configuration().get("MaxArraySize", "")
    return max(1, int(size)) if size.isdigit() else 1001


def configuration() -> dict[str, str]:
    """``scontrol show config``, and slurmctld's time as ``now``; empty if Slurm does not answer."""
    out = commands.ask("scontrol", "show", "config", timeout=5.0) or ""
    out = re.sub(r"^Configuration data as of", "now =", out, flags=re.MULTILINE)
    return {key.strip(): value.strip() for key, sign, value in (line.partition("=") for line in out.splitlines())
            if sign}


def seconds_left(answer: Mapping[str, str] | None) -> float | None:
    """Seconds until a job's EndTime, from ``cluster.show_job``; None if it has none.

    Both times are slurmctld's own: this host's clock may differ.
    """
    try:
        end, now = (answer or {})["EndTime"], configuration()["now"]
        return (datetime.fromisoformat(end) - datetime.fromisoformat(now)).total_seconds()
    except (KeyError, ValueError):
        return None


def seconds(text: str) -> int:
    """Of a grace time: ``5``, ``00:00:05``, ``1-00:00:00``; 0 where there is none."""
    days, _, clock = text.strip().rpartition("-")
    words = clock.split(":")
    if not all(word.isdigit() for word in words) or (days and not days.isdigit()):
        return 0
    total = 0
    for word in words:
        total = 60 * total + int(word)
    return total + 86400 * int(days or 0)


def preemption(job: Job, chosen: Sequence[Partition]) -> list[Preemption]:
    """What may preempt a job: one entry per chosen partition, or that of its QOS."""
    config = configuration()
    kind, everywhere = config.get("PreemptType", ""), config.get("PreemptMode", "")
    if kind.endswith("none"):
        gang = _mode(everywhere) == "SUSPEND"
        return [Preemption("SUSPEND", 0, "gang scheduling") if gang else Preemption("OFF", 0, "on this cluster")]
    if kind.endswith("qos"):
        return [_of_qos(job, everywhere)]
    return [Preemption(_mode(p.preempt_mode) or _mode(everywhere), p.grace, f"partition {p.name}") for p in chosen]


def hosts(nodes: str) -> list[str]:
    """The names that a host list such as ``n[1-3]`` stands for."""
    if nodes in ("", "(null)"):
        return []
    return (commands.ask("scontrol", "show", "hostnames", nodes, timeout=5.0) or nodes.replace(",", "\n")).split()


def preempt_mode(answer: Mapping[str, str]) -> str:
    """What Slurm does to a job when it preempts it, by its ``scontrol show job``; empty if that is unknown.

    A compute node may be unable to reach the database of QOSes.
    """
    chosen = [p for p in partitions() if p.name == answer.get("Partition")]
    return "".join(one.mode for one in preemption(Job(qos=answer.get("QOS") or None), chosen)[:1])


def _of_qos(job: Job, everywhere: str) -> Preemption:
    rows = accounting("qos", "format=name,preemptmode,gracetime") or []
    known = {row[0]: row for row in rows if len(row) == 3}
    name = job.qos or default_qos(job) or (next(iter(known)) if len(known) == 1 else None)
    if name not in known:
        return Preemption("", 0, f"QOS {name}" if name else "the job's QOS")
    mode = _mode(known[name][1]) or _mode(everywhere)  # "cluster": the cluster's own
    return Preemption(mode, seconds(known[name][2]), f"QOS {name}" + ("" if job.qos else ", the default"))


def user_name() -> str:
    """The user of this process, as Slurm names it."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def default_qos(job: Job) -> str | None:
    """The QOS of a job that names none, if accounting is unambiguous."""
    user = f"user={user_name()}"
    account = job.account or next((row[0] for row in accounting("user", user, "format=defaultaccount") or []), "")
    found = set()
    for row in accounting("assoc", user, f"account={account}", "format=partition,defaultqos,qos") or []:
        if len(row) == 3 and row[0] in ("", *(job.partition or "").split(",")):
            allowed = row[2].split(",")
            found.add(row[1] or (allowed[0] if len(allowed) == 1 else "normal" if "normal" in allowed else ""))
    return found.pop() or None if len(found) == 1 else None


def accounting(*words: str) -> list[list[str]] | None:
    """The rows of ``sacctmgr show``; None if it does not answer."""
    out = commands.ask("sacctmgr", "-nP", "show", *words, timeout=5.0)
    return None if out is None else [line.split("|") for line in out.splitlines()]


def check(requests: Iterable[launcher.JobRequest], remedy: str, environ: Mapping[str, str] | None = None) -> None:
    """Ask sbatch whether it would take these jobs; uncertain cases are warnings, and sbatch itself decides.

    Args:
        environ: The user's shell, if what the jobs ignore of it is still to be reported.

    Raises:
        UserError: It would not; in sbatch's words.
    """
    requests = list(requests)
    for text in shell.ignored(environ or {}, requests[0].job) if requests else ():
        print(f"warning: {text}", file=sys.stderr)
    for request in requests:
        words = launcher.refusal(request)
        if words is None:
            continue
        if not may_queue(request, words):
            raise UserError(f"sbatch would refuse the {request.link} job: {words}; {remedy}")
        print(f"warning: the {request.link} job cannot start now: {words}; Slurm may queue it", file=sys.stderr)


def may_queue(request: launcher.JobRequest, words: str) -> bool:
    """Whether sbatch may queue a job although ``sbatch --test-only`` rejects it with these words.

    A configuration that is not available is rejected by both if no node has it, but queued if no node has it at the
    moment, or if a partition has too few nodes for it and EnforcePartLimits permits that.
    """
    if not any(phrase in words for phrase in MAY_QUEUE):
        return False
    if MAY_QUEUE[0] not in words:
        return True
    known = partitions()
    names = (request.job.partition or "").split(",")
    chosen = [p for p in known if p.name in names or (p.default and not request.job.partition)]
    states = commands.ask("sinfo", "-h", "-N", "-o", "%t", "-p", ",".join(p.name for p in chosen)) or ""
    at_work = [state for state in states.split() if re.match("|".join(AT_WORK), state) and state[-1].isalpha()]
    cpus = request.job.world_size * request.job.cpus_per_gpu
    small = any((p.nodes is not None and p.nodes < request.job.nodes) or (p.cpus is not None and p.cpus < cpus)
                for p in chosen)
    return not at_work or len(at_work) < len(states.split()) or small
