"""Whether Slurm accepts the job and can run it to completion, and how it preempts it: partitions, accounts, QOS."""

from __future__ import annotations

import grp
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..chain import chain, signal_lead
from ..rundir.run import Run
from ..slurm import launcher, queue, site
from . import nodes
from .asked import Asked
from .finding import Finding, fails, not_asked, ok, warning
from .slurm import SlurmSettings

SHOWN = 12  # partitions listed besides the job's own
ANY = ("", "ALL", "N/A", "(null)")
UNLIMITED = ("", "UNLIMITED", "INFINITE", "NONE")
# a limit of 0 here means that the account or the QOS accepts no jobs
COUNTS = {"maxsubmit": "MaxSubmitJobs", "maxsubmitpu": "MaxSubmitJobsPerUser", "grpsubmit": "GrpSubmitJobs",
          "maxjobs": "MaxJobs", "maxjobspu": "MaxJobsPerUser", "grpjobs": "GrpJobs"}
CLOSED = "give another --account or --qos, or ask the administrator"


def check(asked: Asked, slurm: SlurmSettings) -> Iterator[Finding]:
    """The effect of Slurm's settings on this job."""
    yield from _partitions(asked, slurm)
    yield from nodes.check(asked, slurm.chosen)
    yield from _association(asked, slurm)
    yield from _qos(asked, slurm)
    yield from _array(asked, slurm)
    yield from _submission(asked)


def _partitions(asked: Asked, slurm: SlurmSettings) -> Iterator[Finding]:
    if not slurm.partitions:
        yield not_asked("limits.partition", "scontrol lists no partitions")
        return
    known = {p.name for p in slurm.partitions}
    names = asked.job.partition.split(",") if asked.job.partition else [p.name for p in slurm.chosen]
    if not names:
        yield fails("limits.partition", "none is given, but this cluster has no default",
                    f"give --partition: {', '.join(sorted(known))}")
    for name in names:
        if name not in known:
            yield fails(f"limits.partition.{name}", "does not exist",
                        f"give --partition: {', '.join(sorted(known))}")
    for partition in slurm.chosen:
        yield from _partition(asked, slurm, partition)
    others = [p for p in slurm.partitions if p not in slurm.chosen]
    if others:
        shown = "; ".join(f"{p.name} ({p.preempt_mode}, grace {p.grace} s, MaxTime {p.max_time})"
                          for p in others[:SHOWN])
        yield ok("limits.partitions", f"others: {shown}" + ("; …" if len(others) > SHOWN else ""))


def _partition(asked: Asked, slurm: SlurmSettings, partition: site.Partition) -> Iterator[Finding]:
    name, job, fields = f"limits.partition.{partition.name}", asked.job, partition.fields
    problems = []
    if fields.get("State", "UP") != "UP":
        problems.append(fails(name, f"it is {fields['State']}", "choose another partition, or wait"))
    limit = 0 if partition.max_time in UNLIMITED else site.seconds(partition.max_time)
    if limit and 60 * job.time_minutes > limit:
        problems.append(fails(name, f"the job's time limit {job.time} is longer than its MaxTime {partition.max_time}",
                              f"give --time {partition.max_time}"))
    memory = (fields.get("MaxMemPerNode", ""), slurm.config.get("MaxMemPerNode", ""))
    most_memory = next((text for text in memory if text.isdigit()), "").lstrip("0")  # 0: no limit
    for key, bound, sign, wanted, unit, option in (
            ("MaxNodes", fields.get("MaxNodes", ""), 1, job.nodes, "nodes", "--nodes {}"),
            ("MinNodes", fields.get("MinNodes", ""), -1, job.nodes, "nodes", "--nodes {}"),
            ("MaxMemPerNode", most_memory, 1, nodes.memory(asked), "MiB per node",
             f"--mem-per-gpu {int(most_memory or 0) // job.gpus}M"),
            ("MaxCPUsPerNode", fields.get("MaxCPUsPerNode", ""), 1, nodes.cpus(asked), "CPUs per node",
             "fewer --cpus-per-gpu")):
        if bound.isdigit() and sign * wanted > sign * int(bound):
            problems.append(fails(name, f"the job requests {wanted} {unit}, but {key} is {bound}",
                                  f"give {option.format(bound)}"))
    problems += _may_use(name, asked, slurm, fields)
    preemption = site.preemption(job, [partition])
    hidden = ", hidden" if fields.get("Hidden") == "YES" else ""
    default = ", the default" if partition.default else ""
    words = "; ".join(one.describe() for one in preemption)
    yield from problems or [ok(name, f"{words}; MaxTime {partition.max_time}{default}{hidden}")]
    ending = min((one for one in preemption if one.ends_the_job), key=lambda one: one.grace, default=None)
    for text in signal_lead.warnings(asked.cost, job.signal_lead, ending, job.time):
        said, _, remedy = text.rpartition("; ")
        yield warning(f"{name}.stop", said, remedy)


def _may_use(name: str, asked: Asked, slurm: SlurmSettings, fields: Mapping[str, str]) -> Iterator[Finding]:
    """Whether the user may use a partition, according to its settings."""
    if fields.get("ReqResv") == "YES" and not asked.job.reservation:
        yield fails(name, "it only accepts jobs of a reservation (ReqResv)", "give --reservation, or choose another "
                    "partition")
    if fields.get("RootOnly") == "YES" and os.geteuid() != 0:
        yield fails(name, "only root may submit to it (RootOnly)", "choose another partition")
    groups = fields.get("AllowGroups", "ALL")
    own = set()
    for number in os.getgroups():
        try:
            own.add(grp.getgrgid(number).gr_name)
        except KeyError:
            continue
    if groups not in ANY and not own & set(groups.split(",")):
        yield fails(name, f"it is restricted to the groups {groups}, but you are in {', '.join(sorted(own))}",
                    "choose another partition")
    accounts = {asked.job.account} if asked.job.account else {row["account"] for row in slurm.associations or []}
    for what, mine in (("Accounts", accounts), ("Qos", {asked.job.qos} if asked.job.qos else set())):
        allowed, denied = fields.get(f"Allow{what}", "ALL"), fields.get(f"Deny{what}", "")
        if mine and allowed not in ANY and not mine & set(allowed.split(",")):
            yield fails(name, f"Allow{what} is {allowed}, but yours: {', '.join(sorted(map(str, mine)))}",
                        f"give --{'account' if what == 'Accounts' else 'qos'}, or choose another partition")
        if mine and denied not in ANY and mine <= set(denied.split(",")):
            yield fails(name, f"Deny{what} is {denied}", "choose another partition")


def _association(asked: Asked, slurm: SlurmSettings) -> Iterator[Finding]:
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
        yield fails("limits.account", f"{text}, and Slurm enforces associations", "ask the administrator for an account"
                    ) if enforced else ok("limits.account", f"{text}, but Slurm does not enforce associations")
        return
    accounts = sorted({row["account"] for row in rows})
    if job.account and job.account not in accounts:
        yield fails("limits.account", f"{user} may use {', '.join(accounts)}; the job requests {job.account}",
                    f"give --account {accounts[0]}")
    else:
        yield ok("limits.account", f"{user} may use {', '.join(accounts)}")
    mine = [row for row in rows if not job.account or row["account"] == job.account]
    allowed = sorted({name for row in mine for name in row["qos"].split(",") if name})
    if job.qos and allowed and job.qos not in allowed:
        yield fails("limits.qos", f"{user} may use QOS {', '.join(allowed)}; the job requests {job.qos}",
                    "give another --qos")
    elif allowed:
        yield ok("limits.qos", f"{user} may use {', '.join(allowed)}")
    wholes = [row for row in slurm.accounts if not job.account or row["account"] == job.account]
    for rows in (mine, wholes):
        for row in rows if len(rows) == 1 else []:
            yield from _limits(asked, "limits.account.limits", f"account {row['account']}", row)


def _qos(asked: Asked, slurm: SlurmSettings) -> Iterator[Finding]:
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
    """The effect of the limits of a QOS or an association on the job."""
    job, said, problems = asked.job, [], []
    wall = site.seconds(row.get("maxwall", ""))
    if wall:
        said.append(f"MaxWall {row['maxwall']}")
        if 60 * job.time_minutes > wall:
            problems.append(fails(name, f"{where} has MaxWall {row['maxwall']}; the job's time limit is {job.time}",
                                  f"give --time {row['maxwall']}"))
    jobs = len(asked.elements) + 1
    for key, words in COUNTS.items():
        if not row.get(key, "").isdigit():
            continue
        said.append(f"{words} {row[key]}")
        if int(row[key]) == 0:
            problems.append(fails(name, f"{where} has {words} 0: it accepts no jobs", CLOSED))
        elif "submit" in key and jobs > int(row[key]):
            problems.append(fails(name, f"{where} has {words} {row[key]}; the run submits {jobs} (training and "
                                  f"{jobs - 1} evaluations)", "request fewer evaluations, or give --no-eval"))
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
                remedy = f"request at most {limit} {unit} (--nodes, --gpus, --cpus-per-gpu)"
                problems.append(fails(name, f"{where} has {words} {what}={limit}; the job requests {wants} {unit} and "
                                      "would never start", remedy if int(limit) else CLOSED))
    yield from problems or ([ok(name, f"{where}: {', '.join(said)}")] if said else [])


def _array(asked: Asked, slurm: SlurmSettings) -> Iterator[Finding]:
    size = slurm.config.get("MaxArraySize", "")
    count = len(asked.elements)
    if not size.isdigit():
        yield not_asked("limits.array", "scontrol does not show MaxArraySize")
    elif count > int(size) or (int(size) == 0 and count > 1):
        yield fails("limits.array", f"the run has {count} evaluations, but MaxArraySize is {size}",
                    "request fewer, and score the rest with `evaluate`, which submits several arrays")
    else:
        yield ok("limits.array", f"MaxArraySize {size}, MaxJobCount {slurm.config.get('MaxJobCount', 'not given')}")


def _submission(asked: Asked) -> Iterator[Finding]:
    """Whether sbatch would accept the jobs of the chain (``sbatch --test-only``)."""
    run = Run(Path(os.path.join(asked.runs_dir, asked.job.name or "doctor")))
    for link in chain.links(asked.job):
        name, count = f"limits.submission.{link}", 1 if link == chain.TRAIN else len(asked.elements)
        request = chain.request(run, asked.job, link, f"ecm-cluster:doctor:{link}", elements=count)
        words = launcher.refusal(request, timeout=10.0)
        if words is None:
            yield ok(name, f"sbatch would accept the {link} job ({request.job.nodes} × {request.job.gpus}, "
                          f"{request.job.time})")
        elif site.may_queue(request, words):
            yield warning(name, f"the {link} job cannot start now: {words}", "Slurm may queue it")
        else:
            yield fails(name, f"sbatch would reject the {link} job: {words}", "fix the job file or the flags")
