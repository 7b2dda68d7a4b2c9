"""Whether Slurm would take the job, run it to its end, and how it preempts it: partitions, accounts, QOS, GPUs."""

from __future__ import annotations

import grp
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..chain import chain, signal_lead
from ..rundir.run import Run
from ..slurm import commands, queue, site
from . import nodes
from .asked import Asked
from .finding import Finding, fails, not_asked, ok, warning
from .slurm import Slurm

SHOWN = 12  # partitions that are listed besides the job's own
ANY = ("", "ALL", "N/A", "(null)")
UNLIMITED = ("", "UNLIMITED", "INFINITE", "NONE")
# a limit of 0 in one of these closes the account or the QOS
COUNTS = {"maxsubmit": "MaxSubmitJobs", "maxsubmitpu": "MaxSubmitJobsPerUser", "grpsubmit": "GrpSubmitJobs",
          "maxjobs": "MaxJobs", "maxjobspu": "MaxJobsPerUser", "grpjobs": "GrpJobs"}
CLOSED = "give another --account or --qos, or ask the administrator"


def check(asked: Asked, slurm: Slurm) -> Iterator[Finding]:
    """What Slurm's settings mean for this job."""
    yield from _partitions(asked, slurm)
    yield from nodes.check(asked, slurm.chosen)
    yield from _association(asked, slurm)
    yield from _qos(asked, slurm)
    yield from _array(asked, slurm)
    yield from _submission(asked)


def _partitions(asked: Asked, slurm: Slurm) -> Iterator[Finding]:
    if not slurm.partitions:
        yield not_asked("limits.partition", "scontrol lists no partitions")
        return
    known = {p.name for p in slurm.partitions}
    names = asked.job.partition.split(",") if asked.job.partition else [p.name for p in slurm.chosen]
    if not names:
        yield fails("limits.partition", "none is given, and this cluster has no default",
                    f"give --partition: {', '.join(sorted(known))}")
    for name in names:
        if name not in known:
            yield fails(f"limits.partition.{name}", "there is no such partition",
                        f"give --partition: {', '.join(sorted(known))}")
    for partition in slurm.chosen:
        yield from _partition(asked, slurm, partition)
    others = [p for p in slurm.partitions if p not in slurm.chosen]
    if others:
        shown = "; ".join(f"{p.name} ({p.preempt_mode}, grace {p.grace} s, MaxTime {p.max_time})"
                          for p in others[:SHOWN])
        yield ok("limits.partitions", f"others: {shown}" + ("; …" if len(others) > SHOWN else ""))


def _partition(asked: Asked, slurm: Slurm, partition: site.Partition) -> Iterator[Finding]:
    name, job, told = f"limits.partition.{partition.name}", asked.job, partition.fields
    faults = []
    if told.get("State", "UP") != "UP":
        faults.append(fails(name, f"it is {told['State']}", "choose another partition, or wait"))
    limit = 0 if partition.max_time in UNLIMITED else site.seconds(partition.max_time)
    if limit and 60 * job.time_minutes > limit:
        faults.append(fails(name, f"the job's time limit {job.time} is longer than its MaxTime {partition.max_time}",
                            f"give --time {partition.max_time}"))
    largest = told.get("MaxNodes", "")
    if largest.isdigit() and job.nodes > int(largest):
        faults.append(fails(name, f"the job asks for {job.nodes} nodes, and MaxNodes is {largest}",
                            f"give --nodes {largest}"))
    least = told.get("MinNodes", "")
    if least.isdigit() and job.nodes < int(least):
        faults.append(fails(name, f"the job asks for {job.nodes} nodes, and MinNodes is {least}",
                            f"give --nodes {least}"))
    memory = [told.get("MaxMemPerNode", ""), slurm.config.get("MaxMemPerNode", "")]
    most = next((int(text) for text in memory if text.isdigit()), 0)
    if most and nodes.memory(asked) > most:
        faults.append(fails(name, f"the job asks for {nodes.memory(asked)} MiB a node, and MaxMemPerNode is {most}",
                            f"give --mem-per-gpu {most // job.gpus}M"))
    cpus = told.get("MaxCPUsPerNode", "")
    if cpus.isdigit() and nodes.cpus(asked) > int(cpus):
        faults.append(fails(name, f"the job asks for {nodes.cpus(asked)} CPUs a node, and MaxCPUsPerNode is {cpus}",
                            "give fewer --cpus-per-gpu"))
    faults += _may_use(name, asked, slurm, told)
    preemption = site.preemption(job, [partition])
    hidden = ", hidden" if told.get("Hidden") == "YES" else ""
    default = ", the default" if partition.default else ""
    words = "; ".join(one.describe() for one in preemption)
    yield from faults or [ok(name, f"{words}; MaxTime {partition.max_time}{default}{hidden}")]
    ending = min((one for one in preemption if one.ends_the_job), key=lambda one: one.grace, default=None)
    for text in signal_lead.warnings(asked.cost, job.signal_lead, ending, job.time):
        said, _, remedy = text.rpartition("; ")
        yield warning(f"{name}.stop", said, remedy)


def _may_use(name: str, asked: Asked, slurm: Slurm, told: Mapping[str, str]) -> Iterator[Finding]:
    """Who may use a partition, as far as it says."""
    if told.get("ReqResv") == "YES" and not asked.job.reservation:
        yield fails(name, "it takes jobs of a reservation only (ReqResv)", "give --reservation, or choose another "
                    "partition")
    if told.get("RootOnly") == "YES" and os.geteuid() != 0:
        yield fails(name, "only root may submit to it (RootOnly)", "choose another partition")
    groups = told.get("AllowGroups", "ALL")
    own = set()
    for number in os.getgroups():
        try:
            own.add(grp.getgrgid(number).gr_name)
        except KeyError:
            continue
    if groups not in ANY and not own & set(groups.split(",")):
        yield fails(name, f"it is for the groups {groups}, and you are in {', '.join(sorted(own))}",
                    "choose another partition")
    accounts = {asked.job.account} if asked.job.account else {row["account"] for row in slurm.associations or []}
    for what, mine in (("Accounts", accounts), ("Qos", {asked.job.qos} if asked.job.qos else set())):
        allowed, denied = told.get(f"Allow{what}", "ALL"), told.get(f"Deny{what}", "")
        if mine and allowed not in ANY and not mine & set(allowed.split(",")):
            yield fails(name, f"Allow{what} is {allowed}, and yours: {', '.join(sorted(map(str, mine)))}",
                        f"give --{'account' if what == 'Accounts' else 'qos'}, or choose another partition")
        if mine and denied not in ANY and mine <= set(denied.split(",")):
            yield fails(name, f"Deny{what} is {denied}", "choose another partition")


def _association(asked: Asked, slurm: Slurm) -> Iterator[Finding]:
    if slurm.accounting != "slurmdbd":
        return
    if slurm.associations is None:
        yield not_asked("limits.account", "sacctmgr does not answer")
        return
    user, job = queue.user_name(), asked.job
    rows = slurm.associations
    enforced = "associations" in slurm.config.get("AccountingStorageEnforce", "")
    if not rows:
        text = f"accounting has no association of {user} with an account"
        yield fails("limits.account", f"{text}, and Slurm enforces them", "ask the administrator for an account") \
            if enforced else ok("limits.account", f"{text}, and Slurm does not enforce them")
        return
    accounts = sorted({row["account"] for row in rows})
    if job.account and job.account not in accounts:
        yield fails("limits.account", f"{user} may use {', '.join(accounts)}; the job names {job.account}",
                    f"give --account {accounts[0]}")
    else:
        yield ok("limits.account", f"{user} may use {', '.join(accounts)}")
    mine = [row for row in rows if not job.account or row["account"] == job.account]
    allowed = sorted({name for row in mine for name in row["qos"].split(",") if name})
    if job.qos and allowed and job.qos not in allowed:
        yield fails("limits.qos", f"the QOS that {user} may use: {', '.join(allowed)}; the job names {job.qos}",
                    "give another --qos")
    elif allowed:
        yield ok("limits.qos", f"{user} may use {', '.join(allowed)}")
    wholes = [row for row in slurm.accounts if not job.account or row["account"] == job.account]
    for rows in (mine, wholes):
        for row in rows if len(rows) == 1 else []:
            yield from _limits(asked, "limits.account.limits", f"account {row['account']}", row)


def _qos(asked: Asked, slurm: Slurm) -> Iterator[Finding]:
    name = asked.job.qos
    if name is None:
        defaults = {row["defaultqos"] for row in slurm.associations or []} - {""}
        name = defaults.pop() if len(defaults) == 1 else "normal"
    for row in slurm.qos or []:
        if row["name"] == name:
            yield from _limits(asked, f"limits.qos.{name}", f"QOS {name}", row)
    for partition in slurm.chosen:
        other = partition.fields.get("QoS", "N/A")
        for row in (slurm.qos or []) if other not in ANY else []:
            if row["name"] == other:
                yield from _limits(asked, f"limits.qos.{other}", f"QOS {other} of partition {partition.name}", row)


def _limits(asked: Asked, name: str, where: str, row: Mapping[str, str]) -> Iterator[Finding]:
    """What the limits of a QOS or an association mean for the job."""
    job, said, faults = asked.job, [], []
    wall = site.seconds(row.get("maxwall", ""))
    if wall:
        said.append(f"MaxWall {row['maxwall']}")
        if 60 * job.time_minutes > wall:
            faults.append(fails(name, f"{where} has MaxWall {row['maxwall']}; the job's time limit is {job.time}",
                                f"give --time {row['maxwall']}"))
    jobs = len(asked.elements) + 1
    for key, words in COUNTS.items():
        if not row.get(key, "").isdigit():
            continue
        said.append(f"{words} {row[key]}")
        if int(row[key]) == 0:
            faults.append(fails(name, f"{where} has {words} 0: it takes no job", CLOSED))
        elif "submit" in key and jobs > int(row[key]):
            faults.append(fails(name, f"{where} has {words} {row[key]}; the run submits {jobs} (training and "
                                f"{jobs - 1} evaluations)", "ask for fewer evaluations, or give --no-eval"))
    asks = {"node": (job.nodes, "nodes"), "cpu": (job.nodes * nodes.cpus(asked), "CPUs")}
    if job.device == "cuda":
        kinds = ["gres/gpu", *([f"gres/gpu:{job.gpu_type}"] if job.gpu_type else [])]
        asks.update(dict.fromkeys(kinds, (job.nodes * job.gpus, "GPUs")))
    for key, words in (("maxtrespu", "MaxTRESPerUser"), ("grptres", "GrpTRES"), ("maxtres", "MaxTRES")):
        for what, limit in re.findall(r"([\w/:.-]+)=(\d+)(?![\w.])", row.get(key, "")):
            wants, unit = asks.get(what, (0, ""))
            if unit:
                said.append(f"{words} {what}={limit}")
            if wants > int(limit):
                remedy = f"ask for less: {limit} {unit} at most (--nodes, --gpus, --cpus-per-gpu)"
                faults.append(fails(name, f"{where} has {words} {what}={limit}; the job asks for {wants} {unit} and "
                                    "would wait forever", remedy if int(limit) else CLOSED))
    yield from faults or ([ok(name, f"{where}: {', '.join(said)}")] if said else [])


def _array(asked: Asked, slurm: Slurm) -> Iterator[Finding]:
    size = slurm.config.get("MaxArraySize", "")
    count = len(asked.elements)
    if not size.isdigit():
        yield not_asked("limits.array", "scontrol does not say MaxArraySize")
    elif count > int(size) or (int(size) == 0 and count > 1):
        yield fails("limits.array", f"the run has {count} evaluations, and MaxArraySize is {size}",
                    "ask for fewer, and score the rest with `evaluate`, which submits several arrays")
    else:
        yield ok("limits.array", f"MaxArraySize {size}, MaxJobCount {slurm.config.get('MaxJobCount', 'not given')}")


def _submission(asked: Asked) -> Iterator[Finding]:
    """Whether sbatch would take the jobs of the chain (``sbatch --test-only``)."""
    run = Run(Path(os.path.join(asked.runs_dir, asked.job.name or "doctor")))
    for stage in chain.stages(asked.job):
        name, count = f"limits.submission.{stage}", 1 if stage == chain.TRAIN else len(asked.elements)
        request = chain.request(run, asked.job, stage, f"ecm-cluster:doctor:{stage}", elements=count)
        words = commands.refusal(request, timeout=10.0)
        if words is None:
            yield ok(name, f"sbatch would take the {stage} job ({request.job.nodes} × {request.job.gpus}, "
                          f"{request.job.time})")
        elif site.may_queue(request, words):
            yield warning(name, f"the {stage} job cannot start now: {words}", "Slurm may queue it")
        else:
            yield fails(name, f"sbatch would refuse the {stage} job: {words}", "fix the job file or the flags")
