"""Slurm on this site: controller, accounting, and the settings that determine what happens to a job."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ..base.errors import UserError
from ..console import shell
from ..slurm import commands, queue, site
from .asked import Asked
from .finding import Finding, fails, not_asked, ok, warning
from .folder import CLOCK_SECONDS
from .requirements import numbers

TESTED = ("22.05", "24.11")  # docs/reference/slurm-versions.md
KILL_WAIT = 10  # seconds that the batch shell may need to record the end of an attempt after the last SIGTERM
ASSOCIATION = ("account", "partition", "defaultqos", "qos", "maxjobs", "maxsubmit", "maxwall", "grptres", "maxtres",
               "grpjobs", "grpsubmit")
QOS = ("name", "flags", "maxwall", "maxjobspu", "maxsubmitpu", "maxtrespu", "grptres", "maxtres", "grpjobs",
       "grpsubmit")


@dataclass
class SlurmSettings:
    """The settings of Slurm, queried once.

    Attributes:
        config: ``scontrol show config``.
        skew: slurmctld's clock minus this machine's, in seconds.
        sacct: Why sacct does not answer; empty if it does.
        associations, qos: Rows of accounting for this user; None: it does not answer.
        accounts: The same for the user's accounts themselves.
        chosen: The job's partitions.
    """

    config: Mapping[str, str]
    skew: float
    partitions: Sequence[site.Partition]
    sacct: str = ""
    associations: list[dict[str, str]] | None = None
    qos: list[dict[str, str]] | None = None
    accounts: list[dict[str, str]] = field(default_factory=list)
    chosen: list[site.Partition] = field(default_factory=list)

    def on(self, key: str) -> bool:
        return self.config.get(key, "") in ("1", "Yes", "YES")

    @property
    def accounting(self) -> str:
        """The type of accounting: ``slurmdbd`` or ``none``."""
        return self.config.get("AccountingStorageType", "").rpartition("/")[2]


def ask(asked: Asked) -> SlurmSettings:
    """Query all settings that the checks need."""
    began = time.time()
    config = site.configuration()
    try:
        now = datetime.fromisoformat(config["now"]).timestamp()
    except (KeyError, ValueError):
        now = began
    found = SlurmSettings(config, now - (began + time.time()) / 2, site.partitions())
    if found.accounting == "slurmdbd":
        done = commands.run_command("sacct", "-X", "-n", "-P", "-o", "JobID", "-S", "now-1hours", timeout=5.0)
        found.sacct = "no answer" if done is None else commands.said(done.stderr) if done.returncode else ""
    if found.accounting == "slurmdbd" and not found.sacct:
        found.associations = _rows("assoc", ASSOCIATION, f"user={queue.user_name()}")
        found.qos = None if found.associations is None else _rows("qos", QOS)
    if found.associations:
        accounts = ",".join(sorted({row["account"] for row in found.associations}))
        found.accounts = _rows("assoc", ASSOCIATION, "user=", f"account={accounts}") or []
    names = asked.job.partition.split(",") if asked.job.partition else [p.name for p in found.partitions if p.default]
    found.chosen = [p for name in names for p in found.partitions if p.name == name]
    return found


def _rows(kind: str, columns: Sequence[str], *which: str) -> list[dict[str, str]] | None:
    rows = site.accounting(kind, *which, f"format={','.join(columns)}")
    return None if rows is None else [dict(zip(columns, row)) for row in rows]


def check(asked: Asked, slurm: SlurmSettings) -> Iterator[Finding]:
    """Controller, accounting and settings of the whole cluster."""
    yield from _controller(slurm)
    if not slurm.config:
        return  # nothing else is known
    yield from _shell(asked, slurm)
    yield from _accounting(slurm)
    yield _preemption(slurm)
    yield _requeue(asked, slurm)
    yield _kill_wait(slurm)


def _controller(slurm: SlurmSettings) -> Iterator[Finding]:
    version = slurm.config.get("SLURM_VERSION", "of an unknown version")
    said = f"cluster {slurm.config.get('ClusterName')} answers, Slurm {version}"
    if not commands.can_ask():
        yield fails("slurm.scontrol", "no scontrol in PATH", "add Slurm's commands to PATH")
        return
    if not slurm.config:
        yield fails("slurm.controller", "`scontrol show config` does not answer", "tell the administrator")
        return
    if not numbers(TESTED[0]) <= numbers(version)[:2] <= numbers(TESTED[1]):
        yield warning("slurm.controller", f"{said}, which is not among the tested versions, {TESTED[0]} to {TESTED[1]}",
                      "try the demo first: `python -m ecm_cluster.submit demo`")
    else:
        yield ok("slurm.controller", said)
    if abs(slurm.skew) > CLOCK_SECONDS:
        yield warning("slurm.clock", f"slurmctld's clock differs from this machine's by {slurm.skew:+.0f} s",
                      "synchronise both (NTP)")
    else:
        yield ok("slurm.clock", "slurmctld's clock agrees with this machine's")


def _shell(asked: Asked, slurm: SlurmSettings) -> Iterator[Finding]:
    try:
        shell.check_cluster(os.environ, slurm.config.get("ClusterName"))
    except UserError as error:
        yield fails("slurm.shell", str(error), "unset it")
        return
    for text in shell.ignored(os.environ, asked.job):
        yield warning("slurm.shell", text, "set it with a flag or in the job file")


def _accounting(slurm: SlurmSettings) -> Iterator[Finding]:
    kept = slurm.config.get("MinJobAge", "MinJobAge")
    if slurm.accounting != "slurmdbd":
        yield warning("slurm.accounting", f"this cluster has none (AccountingStorageType={slurm.accounting or 'unset'})"
                      f": Slurm forgets how a job ended after {kept}", "none is required: runs keep their own records")
        return
    if slurm.sacct or slurm.associations is None:
        said = f"sacct: {slurm.sacct}" if slurm.sacct else "sacctmgr: no answer"
        yield fails("slurm.accounting", f"slurmdbd does not answer ({said}): Slurm forgets how a job ended after "
                    f"{kept}", "tell the administrator; runs continue with their own records")
        return
    yield ok("slurm.accounting", "sacct and sacctmgr answer")
    if "job_comment" in slurm.config.get("AccountingStoreFlags", "") or slurm.on("AccountingStoreJobComment"):
        yield ok("slurm.comments", "accounting stores the comments by which jobs are identified")
    else:
        yield ok("slurm.comments", "accounting does not store comments (AccountingStoreFlags): a job that has left the "
                 "queue is identified by the name of its batch script")


def _preemption(slurm: SlurmSettings) -> Finding:
    config = slurm.config
    kind, mode = config.get("PreemptType", "").rpartition("/")[2], config.get("PreemptMode", "")
    more = ", by the job's own signal" if "preempt_send_user_signal" in config.get("SlurmctldParameters", "") else ""
    exempt = site.seconds(config.get("PreemptExemptTime", ""))
    return ok("slurm.preemption", f"PreemptType={kind}, PreemptMode={mode}{more}"
              + (f"; a job is exempt for its first {exempt} s" if exempt else ""))


def _requeue(asked: Asked, slurm: SlurmSettings) -> Finding:
    asks = asked.job.slurm.get("requeue", True) is not None and "no-requeue" not in asked.job.slurm
    if asks:
        default = "" if slurm.on("JobRequeue") else " (JobRequeue=0 applies to other jobs)"
        return ok("slurm.requeue", f"jobs of a run request --requeue{default}")
    if slurm.on("JobRequeue") and "no-requeue" not in asked.job.slurm:
        return ok("slurm.requeue", "jobs are requeued by default (JobRequeue=1)")
    return warning("slurm.requeue", "Slurm does not requeue this job (`slurm:` in the job file disables --requeue, "
                   f"JobRequeue={slurm.config.get('JobRequeue')}): a successor job is submitted instead if the grace "
                   "time suffices", "remove `requeue: null` or `no-requeue` from the job file")


def _kill_wait(slurm: SlurmSettings) -> Finding:
    seconds = numbers(slurm.config.get("KillWait", ""))
    if not seconds:
        return not_asked("slurm.killwait", "scontrol does not show KillWait")
    text = f"{seconds[0]} s from the last SIGTERM to SIGKILL (KillWait)"
    if seconds[0] < KILL_WAIT:
        return warning("slurm.killwait", text, f"with less than {KILL_WAIT} s the end of an attempt may not be "
                       "recorded; the next attempt then records it")
    return ok("slurm.killwait", text)
