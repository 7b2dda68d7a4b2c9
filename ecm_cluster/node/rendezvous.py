"""The process group that joins the ranks of an attempt, out of reach of other users as far as torch allows.

Ranks find each other through a file in the run directory that rank 0 writes for each attempt, readable by its owner
alone. It names the store, and a token that is part of every key: who does not have it can neither read what the ranks
say there nor speak for one of them. The store of a single node is reached over loopback alone; that of several listens
on the one interface that the nodes share. torch below 2.2 listens on all interfaces: there a single node's ranks
share a file that exists in memory alone, and the store of several nodes listens everywhere.

gloo and NCCL neither authenticate nor encrypt what they carry, so nothing that a rank receives is ever unpickled: see
:mod:`.gathering`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import stat
import struct
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from ..attempts.failures import NotStartable
from ..base import files
from ..base.reading import Maybe, Number, Text, check, parse_json
from .world import RankInfo

SECONDS = 300.0  # torch's default for a TCPStore
LEAVE_SECONDS = 10.0  # that ranks wait for each other when they end
LARGEST = 4096  # bytes of the file
SHAPE = {"token": Text("[0-9a-f]{32}"), "address": Maybe(Text(r"[0-9.]+", called="an IPv4 address")),
         "port": Number(0, 65535), "file": Maybe(Text(r"/proc/\d+/fd/\d+"))}


def join(place: RankInfo, path: Path, device: str, timeout: float) -> Any:
    """Make the default process group: NCCL on GPUs, gloo on CPU.

    Args:
        path: Of the file that names the store, of this attempt alone; rank 0 writes it.
        device: ``cuda`` or ``cpu``.
        timeout: Seconds after which a collective gives up.

    Returns:
        A gloo group over all ranks for agreements, apart from the gradients' one.

    Raises:
        NotStartable: Another user has put the file there.
        TimeoutError: Rank 0 could not be reached.
    """
    import torch.distributed as dist

    if place.rank == 0:
        own = "127.0.0.1" if place.nodes == 1 else addresses()[0]
        store, record = _serve(own, place)
        # after the store listens: a rank that reads the record connects at once
        files.write_text(path, json.dumps(record), private=True)
    else:
        record = await_record(path, SECONDS)
        store = _connect(record, place)
    name = interface("127.0.0.1" if place.nodes == 1 else record["address"])
    if name and (name != "lo" or place.nodes == 1):  # nodes emulated on one machine may use the loopback
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(variable, name)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", store=dist.PrefixStore(record["token"], store),
                            rank=place.rank, world_size=place.world_size, timeout=timedelta(seconds=timeout))
    return dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))


def leave(group: Any) -> None:
    """Wait a moment for the other ranks, since rank 0 holds the store; collective, and never an error.

    Nothing is torn down: NCCL would wait for the device, which may be what has failed, and the process ends anyhow. So
    neither a slow rank nor a broken GPU stands between a commit and the requeue.
    """
    import torch.distributed as dist

    with contextlib.suppress(Exception):
        dist.monitored_barrier(group, timeout=timedelta(seconds=LEAVE_SECONDS))


# ---------------------------------------------------------------------------------------------- the store


def _serve(address: str, place: RankInfo) -> tuple[Any, dict[str, Any]]:
    """The store, and the record by which other ranks find it."""
    import torch.distributed as dist

    record: dict[str, Any] = {"token": secrets.token_hex(16), "address": address, "port": 0, "file": None}
    if place.world_size == 1:
        return dist.HashStore(), record
    store = _listening_at(address, place.world_size)
    if store is None and place.nodes == 1:
        # in memory alone, and reached through /proc, which opens it to processes of this user only
        record["file"] = f"/proc/{os.getpid()}/fd/{os.memfd_create('store', os.MFD_CLOEXEC)}"
        return dist.FileStore(record["file"], place.world_size), record
    if store is None:
        store = dist.TCPStore(address, 0, place.world_size, is_master=True, timeout=timedelta(seconds=SECONDS),
                              wait_for_workers=False)
    return store, {**record, "port": store.port}


def _listening_at(address: str, ranks: int) -> Any:
    """A store that listens at this address alone, on a port that the kernel picks; None: torch has none."""
    import torch.distributed as dist

    with socket.create_server((address, 0), backlog=1024) as server:  # all ranks connect at the same moment
        for more in ({}, {"use_libuv": False}):  # 2.3 and 2.4 take a socket without libuv alone
            handle = os.dup(server.fileno())
            try:
                return dist.TCPStore(address, server.getsockname()[1], ranks, is_master=True,
                                     timeout=timedelta(seconds=SECONDS), wait_for_workers=False,
                                     master_listen_fd=handle, **more)
            except (TypeError, RuntimeError):
                with contextlib.suppress(OSError):
                    os.close(handle)
    return None


def _connect(record: dict[str, Any], place: RankInfo) -> Any:
    import torch.distributed as dist

    if record["file"]:
        return dist.FileStore(record["file"], place.world_size)
    return dist.TCPStore(record["address"], record["port"], place.world_size, is_master=False,
                         timeout=timedelta(seconds=SECONDS), wait_for_workers=False)


# ---------------------------------------------------------------------------------------------- the file


def await_record(path: Path, seconds: float) -> dict[str, Any]:
    """What rank 0 has written, as soon as its store can be reached; raises as :func:`join`."""
    end, last = time.monotonic() + seconds, ""
    while time.monotonic() < end:
        # listing the folder makes an NFS client look for new names; a bare open may trust a stale "no such file"
        os.listdir(path.parent)
        with contextlib.suppress(FileNotFoundError, ValueError):
            record = _read(path)
            if _answers(record):
                return record
            last = f" at {record['address']}"
        time.sleep(0.05)
    remedy = "is it the interface between the nodes? set GLOO_SOCKET_IFNAME in `env` otherwise" if last else \
        "is the run directory on storage that all nodes share?"
    raise TimeoutError(f"rank 0 could not be reached{last} within {seconds:.0f} s through {path}; {remedy}")


def _read(path: Path) -> dict[str, Any]:
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        there = os.fstat(file.fileno())
        # the folder's owner: a server that maps root to nobody
        if there.st_uid not in (os.geteuid(), os.stat(path.parent).st_uid) or not stat.S_ISREG(there.st_mode):
            raise NotStartable(f"{path} belongs to another user (uid {there.st_uid}); delete it, and let nobody else "
                               f"write to {path.parent}")
        return check(parse_json(file.read(LARGEST), path), SHAPE, path)


def _answers(record: dict[str, Any]) -> bool:
    if record["file"]:
        return os.path.exists(record["file"])
    # one look of many: `await_record` looks again until its own time is up
    with contextlib.suppress(OSError), socket.create_connection((record["address"], record["port"]), timeout=3):
        return True
    return False


# ---------------------------------------------------------------------------------------------- interfaces


def addresses() -> list[str]:
    """Addresses under which other nodes of the job may reach this one, the likeliest first; loopback has to do alone.

    That is one of the interface that the user names, the one by which Slurm's own processes reach the job's first
    node, or the one that the node's name stands for. Debian and Ubuntu let it stand for 127.0.1.1.
    """
    own = interfaces()
    named = os.environ.get("GLOO_SOCKET_IFNAME") or os.environ.get("NCCL_SOCKET_IFNAME") or ""
    likely = [ip for name, ip in own if named and name.startswith(named.lstrip("=").split(",")[0])]
    likely.append(os.environ.get("SLURM_LAUNCH_NODE_IPADDR", ""))
    for host in (os.environ.get("SLURMD_NODENAME"), socket.gethostname()):
        with contextlib.suppress(OSError):
            likely += [str(info[4][0]) for info in socket.getaddrinfo(host, None, socket.AF_INET)] if host else []
    outside = [ip for _, ip in own if not ip.startswith("127.")]
    return list(dict.fromkeys([*(ip for ip in likely if ip in outside), *outside])) or ["127.0.0.1"]


def interfaces() -> list[tuple[str, str]]:
    """(name, IPv4 address) of each network interface that has one."""
    pairs = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                packed = fcntl.ioctl(probe.fileno(), 0x8915, struct.pack("256s", name[:15].encode()))  # SIOCGIFADDR
                pairs.append((name, socket.inet_ntoa(packed[20:24])))
    return pairs


def interface(address: str) -> str | None:
    """The interface from which this node reaches an address; gloo and NCCL are configured to use it as well."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # nothing is sent; the kernel looks up the route
        own = probe.getsockname()[0]
    return next((name for name, ip in interfaces() if ip == own), None)
