"""Who am I: rank, world size, node, attempt. The only file that reads rank variables."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from ..attempts.failures import NotStartable
from ..slurm.sbatch import TOKEN_ENV

DRIVER_ENV = "ECM_CLUSTER_DRIVER"  # pid of the process that replaces Slurm on one machine
ELEMENT_ENV = "ECM_CLUSTER_ELEMENT"  # what it sets for the elements of an array


@dataclass(frozen=True)
class RankInfo:
    """Where one task of a job stands.

    Attributes:
        job_id: Slurm's (of an array's element ``ARRAY_INDEX``: the number alone may mean the whole array), or the
            local controller's pid.
        restart: How often Slurm has restarted this job.
        cluster: ``slurm`` or ``local``.
        token: That the job was submitted under; empty where its script does not say it.
    """

    rank: int
    world_size: int
    local_rank: int
    node: int
    nodes: int
    job_id: str
    restart: int
    cluster: str
    token: str = ""

    @property
    def on_slurm(self) -> bool:
        """Whether Slurm looks after the job; else the local driver does."""
        return self.cluster == "slurm"

    @property
    def identity(self) -> str:
        """The same for all tasks of one start of one job, different for any other."""
        return f"{self.cluster}:{self.job_id}:{self.restart}"


def identify() -> RankInfo:
    """The place of this process among the tasks of its job, from what Slurm or submitit's controller set."""
    env = os.environ
    if "SUBMITIT_LOCAL_JOB_ID" in env:
        size = int(env["SUBMITIT_LOCAL_NTASKS"])
        return RankInfo(rank=int(env["SUBMITIT_LOCAL_GLOBALID"]), world_size=size,
                     local_rank=int(env["SUBMITIT_LOCAL_LOCALID"]), node=0, nodes=1,
                     job_id=env["SUBMITIT_LOCAL_JOB_ID"], restart=0, cluster="local", token=env.get(TOKEN_ENV, ""))
    return RankInfo(rank=int(env["SLURM_PROCID"]), world_size=int(env["SLURM_NTASKS"]),
                 local_rank=int(env["SLURM_LOCALID"]), node=int(env["SLURM_NODEID"]),
                 nodes=int(env["SLURM_JOB_NUM_NODES"]), job_id=_slurm_job(),
                 restart=int(env.get("SLURM_RESTART_COUNT") or 0), cluster="slurm", token=env.get(TOKEN_ENV, ""))


def batch_start() -> tuple[str, int]:
    """Job id and restart count of the batch shell that this process runs in."""
    return _slurm_job(), int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def _slurm_job() -> str:
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def element() -> int:
    """The index of this job in its array; 0 of a job that is none."""
    return int(os.environ.get("SLURM_ARRAY_TASK_ID") or os.environ.get(ELEMENT_ENV) or 0)


def driver_is_gone() -> bool:
    """Whether the local driver that started this task has died: then nobody would look after the run."""
    driver = os.environ.get(DRIVER_ENV)
    return driver is not None and not os.path.exists(f"/proc/{driver}")


def export(place: RankInfo) -> dict[str, str]:
    """The rank variables that libraries read (mmdet and mmcv ask torch, but user code may ask these)."""
    return {"RANK": str(place.rank), "WORLD_SIZE": str(place.world_size), "LOCAL_RANK": str(place.local_rank)}


def node_name() -> str:
    """The name of this node for Slurm, which need not be its host name."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def device_index(place: RankInfo, visible: int) -> int:
    """The GPU that a rank takes by its number on the node: its own where it sees just one.

    Args:
        visible: GPUs that the rank sees.

    Raises:
        NotStartable: It sees none.
    """
    if visible < 1:
        raise NotStartable(f"{node_name()}: no GPU is visible to rank {place.rank}; ask for one GPU for each rank, or "
                           "give --device cpu")
    return place.local_rank % visible
