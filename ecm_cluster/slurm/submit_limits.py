"""How many jobs a user may have submitted at once, as far as Slurm tells."""

from __future__ import annotations

from ..job.job import Job
from . import site


def known(job: Job) -> dict[str, int]:
    """The limits that apply to a job, by their names in Slurm; empty if none is set, or Slurm does not answer."""
    found: dict[str, int] = {}
    rows = site.accounting("assoc", f"user={site.user_name()}", "format=account,partition,maxsubmit") or []
    for account, partition, most in (row for row in rows if len(row) == 3):
        if job.account in (None, account) and partition in ("", *(job.partition or "").split(",")) and most.isdigit():
            found["MaxSubmitJobs"] = min(int(most), found.get("MaxSubmitJobs", int(most)))
    qos = job.qos or site.default_qos(job)
    for name, most in (row for row in site.accounting("qos", "format=name,maxsubmitpu") or [] if len(row) == 2):
        if name == qos and most.isdigit():
            found[f"MaxSubmitJobsPerUser of QOS {name}"] = int(most)
    most = site.configuration().get("MaxJobCount", "")
    return {**found, **({"MaxJobCount": int(most)} if most.isdigit() else {})}
