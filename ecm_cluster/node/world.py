"""Who am I: rank, world size, node, attempt; and the process group that joins the ranks.

The only file that reads rank variables. Ranks find each other through a file in the run directory which rank 0
writes for each attempt: the store listens on a port that the kernel picked, so a restart never meets an old one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from .. import files
from ..request import TOKEN_ENV
from .failures import NotStartable

RENDEZVOUS_SECONDS = 300.0
LEAVE_SECONDS = 10.0  # that ranks wait for each other when they end
DRIVER_ENV = "ECM_CLUSTER_DRIVER"  # pid of the process that plays Slurm on one machine
ELEMENT_ENV = "ECM_CLUSTER_ELEMENT"  # what it sets for the elements of an array


@dataclass(frozen=True)
class Place:
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


def identify() -> Place:
    """The place of this process among the tasks of its job, from what Slurm or submitit's controller set."""
    env = os.environ
    if "SUBMITIT_LOCAL_JOB_ID" in env:
        size = int(env["SUBMITIT_LOCAL_NTASKS"])
        return Place(rank=int(env["SUBMITIT_LOCAL_GLOBALID"]), world_size=size,
                     local_rank=int(env["SUBMITIT_LOCAL_LOCALID"]), node=0, nodes=1,
                     job_id=env["SUBMITIT_LOCAL_JOB_ID"], restart=0, cluster="local", token=env.get(TOKEN_ENV, ""))
    return Place(rank=int(env["SLURM_PROCID"]), world_size=int(env["SLURM_NTASKS"]),
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


# ---------------------------------------------------------------------------------------------- rendezvous


def addresses(single_node: bool = False) -> list[str]:
    """Addresses under which other nodes may reach this one, the likeliest first.

    A host name that resolves to 127.0.1.1 (Debian, Ubuntu) is of no use to another node, so loopback comes last.
    """
    if single_node:
        return ["127.0.0.1"]
    found: list[str] = []
    with contextlib.suppress(OSError):
        found += [str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    found += [address for _, address in _interfaces()]
    unique = list(dict.fromkeys(found)) or ["127.0.0.1"]
    return sorted(unique, key=lambda a: a.startswith("127."))


def _interfaces() -> list[tuple[str, str]]:
    """(name, IPv4 address) of each network interface that has one."""
    pairs = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                packed = fcntl.ioctl(probe.fileno(), 0x8915, struct.pack("256s", name[:15].encode()))  # SIOCGIFADDR
                pairs.append((name, socket.inet_ntoa(packed[20:24])))
    return pairs


def _interface_towards(address: str, port: int) -> str | None:
    """The interface that a connection to the store leaves by: gloo and NCCL are told to use the same."""
    with socket.create_connection((address, port), timeout=5) as link:
        own = link.getsockname()[0]
    return next((name for name, ip in _interfaces() if ip == own), None)


def _reachable(addresses: list[str], port: int) -> str | None:
    for address in addresses:
        with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=3):
            return address
    return None


def _await_address(path: Path, seconds: float) -> tuple[str, int]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        # listing the folder makes an NFS client look for new names; a bare open may trust a stale "no such file"
        os.listdir(path.parent)
        with contextlib.suppress(FileNotFoundError, ValueError):
            record = files.read_json(path)
            address = _reachable(record["addresses"], record["port"])
            if address is not None:
                return address, record["port"]
        time.sleep(0.05)
    raise TimeoutError(f"rank 0 could not be reached within {seconds:.0f} s through {path}; "
                       "is the run directory on storage that all nodes share?")


def join(place: Place, rendezvous_file: Path, device: str, timeout: float) -> Any:
    """Make the default process group: NCCL on GPUs, gloo on CPU.

    Args:
        rendezvous_file: Named for the attempt; rank 0 writes it.
        device: ``cuda`` or ``cpu``.
        timeout: Seconds after which a collective gives up.

    Returns:
        A gloo group over all ranks for agreements, apart from the gradients' one.
    """
    import torch.distributed as dist

    limit = timedelta(seconds=RENDEZVOUS_SECONDS)
    if place.rank == 0:
        store = dist.TCPStore("127.0.0.1", 0, place.world_size, is_master=True, timeout=limit, wait_for_workers=False)
        own = addresses(place.nodes == 1)
        files.write_json(rendezvous_file, {"addresses": own, "port": store.port})
        address, port = _reachable(own, store.port) or "127.0.0.1", store.port
    else:
        address, port = _await_address(rendezvous_file, RENDEZVOUS_SECONDS)
        store = dist.TCPStore(address, port, place.world_size, is_master=False, timeout=limit,
                              wait_for_workers=False)
    interface = _interface_towards(address, port)
    if interface and place.nodes == 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    elif interface and not address.startswith("127."):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        if interface != "lo":
            os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", store=store, rank=place.rank,
                            world_size=place.world_size, timeout=timedelta(seconds=timeout))
    return dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))


def export(place: Place) -> dict[str, str]:
    """The rank variables that libraries read (mmdet and mmcv ask torch, but user code may ask these)."""
    return {"RANK": str(place.rank), "WORLD_SIZE": str(place.world_size), "LOCAL_RANK": str(place.local_rank)}


def leave(group: Any) -> None:
    """Wait a moment for the other ranks, since rank 0 holds the store; collective, and never an error.

    Nothing is torn down: NCCL would wait for the device, which may be what has failed, and the process ends anyhow. So
    neither a slow rank nor a broken GPU stands between a commit and the requeue.
    """
    import torch.distributed as dist

    with contextlib.suppress(Exception):
        dist.monitored_barrier(group, timeout=timedelta(seconds=LEAVE_SECONDS))


def node_name() -> str:
    """The name of this node for Slurm, which need not be its host name."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def device_index(place: Place, visible: int) -> int:
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
