"""Why a job waits: Slurm's reasons in plain words, for who has not learned them.

Limits have some hundred names, which are made of a few parts (``QOSMaxGRESPerUser``); they are put into words by part.
"""

from __future__ import annotations

import re

WORDS: dict[str, str] = {
    "Priority": "jobs of higher priority are ahead of it",
    "Resources": "it is next, as soon as enough nodes are free",
    "Dependency": "it starts after another job",
    "DependencyNeverSatisfied": "the job that it should start after has failed, so it will never start",
    "BeginTime": "it may not start yet, as just after a requeue",
    "JobHeldUser": "it is held; release it to let it start",
    "JobHeldAdmin": "an administrator holds it",
    "JobHoldMaxRequeue": "it was requeued too often, and is held; release it to let it start",
    "launch failed requeued held": "it could not be launched, and is held; release it to let it start",
    "JobArrayTaskLimit": "as many elements of its array run as may run at once",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved",
    "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions":
        "nodes that it needs are not available",
    "Reserved for maintenance": "its time limit reaches into a maintenance",
    "NodeDown": "a node that it needs is down",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition starts no jobs at present",
    "PartitionTimeLimit": "its time limit is longer than the partition allows",
    "PartitionNodeLimit": "it asks for more nodes than the partition allows",
    "PartitionConfig": "the partition does not allow what it asks for",
    "Reservation": "its reservation has not begun",
    "ReservationDeleted": "its reservation was deleted",
    "Licenses": "the licenses that it needs are in use",
    "BadConstraints": "no node has what it asks for",
    "AccountNotAllowed": "the partition does not admit its account",
    "QOSNotAllowed": "its QOS is not admitted here",
    "InvalidAccount": "its account is not valid; ask an administrator",
    "InvalidQOS": "its QOS is not valid",
    "AssociationJobLimit": "the account has reached its limit of jobs",
    "AssociationResourceLimit": "the account has reached a limit of resources",
    "AssociationTimeLimit": "the account has used up its time",
    "QOSJobLimit": "the QOS has reached its limit of jobs",
    "QOSResourceLimit": "the QOS has reached a limit of resources",
    "QOSTimeLimit": "the QOS has used up its time",
    "QOSUsageThreshold": "the account has used more than the QOS admits",
    "Cleaning": "its previous start is being cleaned up",
    "Prolog": "its nodes are being prepared",
    "BurstBufferStageIn": "its data is being staged by the burst buffer",
    "BurstBufferResources": "the burst buffer is full",
    "DeadLine": "it could no longer end before its deadline",
    "SchedDefer": "Slurm defers the scheduling of new jobs",
    "SystemFailure": "Slurm has failed; ask an administrator",
}
LIMIT = re.compile(r"(QOS|Assoc)?(Grp|Max|Min)(SubmitJob|WallDuration|[A-Z][A-Za-z]*?)s?(Run)?(Minutes)?"
                   r"(PerUser|PerAccount|PerJob|PerNode)?(NotSatisfied|Limit)?")
OWNERS = {"QOS": "the QOS", "Assoc": "the account", None: "the account"}
RESOURCES = {"GRES": "GPU", "Cpu": "CPU", "CPU": "CPU", "Mem": "memory", "Memory": "memory", "Node": "node",
             "Job": "job", "SubmitJob": "submitted job", "Wall": "run time", "WallDuration": "run time",
             "Billing": "billing", "License": "license", "Lic": "license"}
UNCOUNTED = ("memory", "run time", "billing")
SCOPES = {"PerUser": " per user", "PerAccount": " per account", "PerNode": " per node", None: ""}


def in_words(reason: str) -> str:
    """A reason that squeue prints, in words; empty where it is not known."""
    if reason in WORDS:
        return WORDS[reason]
    found = LIMIT.fullmatch(reason)
    if found is not None and found[3] in RESOURCES:
        return _limit(*found.groups())
    # a list of nodes, a date or a cause may follow
    parts = [part.strip() for part in re.split("[,:(]", reason)]
    return next((WORDS[part] for part in parts[::-1] if part in WORDS), "")


def _limit(owner: str | None, kind: str, resource: str, running: str | None, minutes: str | None, scope: str | None,
           _: str | None) -> str:
    word = RESOURCES[resource]
    what = f"{word} minutes" if minutes else word if word in UNCOUNTED else f"{word}s"
    if kind == "Min":
        return f"it asks for fewer {what} than {OWNERS[owner]} demands"
    if scope == "PerJob":
        return f"it asks for more {what} than {OWNERS[owner]} allows per job"
    jobs = " of all its jobs" if kind == "Grp" else ""
    return f"{OWNERS[owner]} has reached its limit of {what}{SCOPES[scope]}{jobs}"
