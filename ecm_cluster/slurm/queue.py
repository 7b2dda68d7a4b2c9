"""What Slurm says of jobs that are asked for by id, or by the token that they were submitted under.

Asked in a clean environment, and by ids rather than "mine": a variable such as ``SQUEUE_PARTITION`` in the user's
shell, or a colleague who asks, must not make a live job look as if it had ended.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence

from ..base.errors import UserError
from . import commands, site
from .job_states import JobState, of_arrays
from .site import user_name as user_name

SEPARATOR = "\x1f"  # no name, comment or path has it
FIELDS = SEPARATOR.join(("%i", "%T", "%r", "%S", "%k", "%o"))
AT_ONCE = 1000  # ids in one command line
UNKNOWN_ID = "Invalid job id"


def query(job_ids: Iterable[str]) -> dict[str, JobState] | None:
    """The states of many jobs, in one squeue call, and one sacct call for those that squeue has forgotten.

    Whose jobs these are is for the caller to see, by :meth:`JobState.is_of`. A job that neither knows is not in the
    answer; None where neither answers.
    """
    wanted = sorted({job_id.partition("_")[0] for job_id in job_ids})
    queue = _queue_of(wanted)
    found = {j.job_id: j for j in queue or [] if j.job_id in wanted}
    missing = sorted(set(wanted) - set(found))
    if missing:
        out = commands.ask("sacct", "-X", "-n", "-P", f"--delimiter={SEPARATOR}", "-o",
                          "JobID,State,Reason,Start,Comment,SubmitLine", "-j", ",".join(missing))
        if queue is None and out is None:
            return None
        rows = (_fields(line) for line in (out or "").splitlines())
        found.update({j.job_id: j for j in of_arrays(JobState(r[0], r[1].split(" ")[0], r[2], r[4], r[3], r[5])
                      for r in rows)})
    return found


def find(tokens: Sequence[str], user: str | None = None) -> dict[str, str]:
    """The ids of jobs that carry these tokens, by token, as far as Slurm still knows any.

    Args:
        user: Who submitted them; None: this user.

    Raises:
        UserError: Slurm does not answer; then a job may be there, and submitting another would make two.
    """
    if not tokens:
        return {}
    known = _queue(*(("--user", user) if user else ("--me",)))
    if known is None:
        raise UserError("cluster: squeue does not answer, so it is not known whether a job was submitted already; "
                        "submit again when it does")
    return {token: state.job_id for token in tokens for state in known if state.is_of(token)}


def _queue_of(job_ids: Sequence[str]) -> list[JobState] | None:
    found: list[JobState] = []
    for begin in range(0, len(job_ids), AT_ONCE):
        part = _queue("-j", ",".join(job_ids[begin:begin + AT_ONCE]))
        if part is None:
            return None
        found += part
    return found


def _queue(*which: str) -> list[JobState] | None:
    """Jobs as squeue lists them; None where Slurm does not answer, which is not the same as none."""
    done = commands.run_command("squeue", *which, "-h", "-a", "-t", "all", "-o", FIELDS)
    # asked for one job that has gone, squeue fails
    if done is None or (done.returncode != 0 and UNKNOWN_ID not in done.stderr):
        return None
    rows = (_fields(line) for line in done.stdout.splitlines() if line.strip())
    return of_arrays(JobState(r[0].strip(), r[1], r[2], r[4], r[3], r[5]) for r in rows)


def _fields(line: str) -> list[str]:
    return [*line.split(SEPARATOR, 5), "", "", "", "", ""][:6]


def cluster_name() -> str | None:
    """The name of the cluster that Slurm's commands talk to here; None if it is unknown."""
    return os.environ.get("SLURM_CLUSTER_NAME") or _configured_name(os.environ.get("PATH", ""),
                                                                    os.environ.get("SLURM_CONF", ""))


@functools.lru_cache(maxsize=8)
def _configured_name(path: str, conf: str) -> str | None:
    return site.configuration().get("ClusterName")
