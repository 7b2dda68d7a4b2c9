"""What a cluster is to be like, and the files that say so to munge, Slurm and MariaDB."""

from __future__ import annotations

import functools
import os
import pwd
import random
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

# read at once: a process that has become a plain user may no longer see this checkout
_TEMPLATES = {path.name: Template(path.read_text()) for path in Path(__file__).parent.glob("templates/*")}
# slurmstepd appends spool/<node>/<node>_<job>.<step>; the path of a unix socket has 107 characters at most
_PATH_MAX = 60


def default_partitions(grace: int) -> dict[str, str]:
    """Five preemptible partitions, and one that preempts them. ``grace`` is the GraceTime in seconds."""
    low = "PriorityTier=1 MaxTime=INFINITE DefaultTime=60"
    return {
        "low": f"Default=YES {low} PreemptMode=REQUEUE GraceTime={grace}",
        "lown": f"{low} PreemptMode=REQUEUE GraceTime=0",
        "lowc": f"{low} PreemptMode=CANCEL GraceTime={grace}",
        "short": f"PriorityTier=1 MaxTime=1 DefaultTime=1 PreemptMode=REQUEUE GraceTime={grace}",
        "high": "PriorityTier=10 MaxTime=INFINITE DefaultTime=60 PreemptMode=OFF GraceTime=0",
        "hidden": f"{low} PreemptMode=REQUEUE GraceTime={grace} Hidden=YES",
    }


@dataclass(frozen=True)
class Options:
    """Options of :class:`SlurmCluster`; every time is in seconds."""

    nodes: int = 4
    gpus: int = 8  # of each node; 0: the nodes have none
    gpu_type: str = ""  # e.g. a100: the gres is then gpu:a100:8
    cpus: int = 64
    memory: int = 64000  # MB
    memory_limits: bool = False  # jobs that use more than they asked for are killed, see requirements.cgroups
    prefix: str = "n"  # of the nodes' names
    dbd: bool = False  # with slurmdbd and MariaDB: sacct works
    preempt: str = "partition_prio"  # PreemptType; "qos": by the QOS of a job, see ``qos``
    preempt_mode: str = "REQUEUE"  # of the whole cluster: what no partition or QOS says otherwise
    # name -> options for sacctmgr, e.g. {"cheap": "PreemptMode=cancel GraceTime=9", "dear": "Preempt=cheap"}, in this
    # order; needs ``dbd``. Associations, limits and QOS are then enforced, and "normal" stays the default
    qos: Mapping[str, str] = field(default_factory=dict)
    requeue: bool = True  # JobRequeue: what applies to jobs that say neither --requeue nor --no-requeue
    max_array_size: int = 10001
    grace: int = 5
    kill_wait: int = 10  # 30 in stock Slurm
    cred_expire: int = 5
    slurmd_timeout: int = 30  # a silent node is DOWN after up to three times this; 5 makes it about 15 s
    message_timeout: int = 5
    preempt_params: str = ""  # SlurmctldParameters, e.g. preempt_send_user_signal; empty: stock preemption
    dep_params: str = ""  # DependencyParameters, e.g. kill_invalid_depend
    partitions: Mapping[str, str] | None = None  # name -> its options; None: default_partitions(grace)
    extra: str = ""  # further lines of slurm.conf
    debug: str = "info"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the nodes: n1, n2, ..."""
        return tuple(f"{self.prefix}{i + 1}" for i in range(self.nodes))


def user_name() -> str:
    """The name of the effective user, or its number where it has none."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


@functools.lru_cache(maxsize=None)
def version() -> tuple[int, ...]:
    """The version of Slurm here, e.g. (22, 5, 8)."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    said = subprocess.run([shutil.which("slurmctld", path=path) or "slurmctld", "-V"], capture_output=True, text=True)
    return tuple(int(number) for number in said.stdout.split()[-1].split(".")[:3])


def write(folder: Path, options: Options) -> tuple[int, int]:
    """Write ``etc/`` and the fake GPUs under ``folder``, an absolute path of at most 60 characters.

    Returns the ports of slurmctld and slurmdbd.
    """
    if len(str(folder)) > _PATH_MAX:
        raise ValueError(f"{folder}: longer than {_PATH_MAX} characters, which Slurm's sockets cannot have")
    for name in ("etc", "munge", "state", "spool", "pid", "log", "dev", "local", "jobs"):
        (folder / name).mkdir(mode=0o700 if name == "state" else 0o755, exist_ok=True)
    for node in options.names:
        (folder / "disk" / node).mkdir(parents=True, exist_ok=True)
    for index in range(options.gpus):
        # slurmd asks for a character device, and a link to /dev/null passes (mknod would need root)
        (folder / "dev" / f"nvidia{index}").symlink_to("/dev/null")
    port = _free_ports(options.nodes + 2)
    values = _values(folder, options, port)
    names = ["slurm.conf", "gres.conf"] + (["slurmdbd.conf", "my.cnf"] if options.dbd else [])
    for name in names:
        text = _TEMPLATES[name].substitute(values)
        target = folder / "etc" / name
        target.write_text(text if options.gpus or name != "gres.conf" else "AutoDetect=off\n")
        target.chmod(0o600 if name == "slurmdbd.conf" else 0o644)  # slurmdbd refuses any other mode
    if version() >= (23,):  # older ones do not know the word, nor read the file where nothing needs cgroups
        (folder / "etc" / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
    if options.memory_limits:
        (folder / "etc" / "cgroup.conf").write_text(
            "CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\nConstrainRAMSpace=yes\n")
    hosts = Path("/etc/hosts").read_text() if Path("/etc/hosts").exists() else "127.0.0.1 localhost\n"
    (folder / "etc" / "hosts").write_text(f"{hosts.rstrip()}\n127.0.0.1 {' '.join(options.names)}\n")
    return port, port + 1


def _values(folder: Path, options: Options, port: int) -> dict[str, object]:
    last, gpu = options.nodes, options.gpus
    partitions = default_partitions(options.grace) if options.partitions is None else options.partitions
    nodes = f"{options.prefix}[1-{last}]" if last > 1 else f"{options.prefix}1"
    gres = f"gpu:{options.gpu_type}:{gpu}" if options.gpu_type else f"gpu:{gpu}"
    return {
        "dir": folder,
        "host": socket.gethostname().split(".")[0],
        "user": user_name(),
        "nodes": nodes,
        "cpus": options.cpus,
        "memory": options.memory,
        "task_plugin": "task/cgroup" if options.memory_limits else "task/none",
        "controller_port": port,
        "accounting_port": port + 1,
        "node_ports": f"[{port + 2}-{port + 1 + last}]" if last > 1 else port + 2,
        "gres": f"Gres={gres}" if gpu else "",
        "gpu_type": f"Type={options.gpu_type}" if options.gpu_type else "",
        "gpu_files": f"{folder}/dev/nvidia[0-{gpu - 1}]" if gpu > 1 else f"{folder}/dev/nvidia0",
        "cred_expire": options.cred_expire,
        "kill_wait": options.kill_wait,
        "message_timeout": options.message_timeout,
        "slurmd_timeout": options.slurmd_timeout,
        "debug": options.debug,
        "preempt": options.preempt,
        "preempt_mode": options.preempt_mode,
        "requeue": int(options.requeue),
        "max_array_size": options.max_array_size,
        "optional": "\n".join(_optional(folder, options, port)),
        "partitions": "\n".join(
            f"PartitionName={name} Nodes={nodes} DefMemPerCPU=100 OverSubscribe=NO State=UP {text}"
            for name, text in partitions.items()
        ),
    }


def _optional(folder: Path, options: Options, port: int) -> list[str]:
    lines = [options.extra] if options.extra else []
    if options.preempt_params:
        lines.append(f"SlurmctldParameters={options.preempt_params}")
    if options.dep_params:
        lines.append(f"DependencyParameters={options.dep_params}")
    if not options.dbd:
        return [*lines, "AccountingStorageType=accounting_storage/none"]
    return [
        *lines,
        *(["AccountingStorageEnforce=associations,limits,qos"] if options.qos else []),
        "AccountingStorageType=accounting_storage/slurmdbd",
        "AccountingStorageHost=127.0.0.1",
        f"AccountingStoragePort={port + 1}",
        # the munge socket towards slurmdbd: without this line sacct looks for /run/munge
        f"AccountingStoragePass={folder}/munge/s",
        "AccountingStorageTRES=gres/gpu",
    ]


def _free_ports(count: int) -> int:
    """The first of ``count`` free ports in a row, below the range from which the kernel gives out its own."""
    for _ in range(200):
        first = random.randrange(10000, 32000)
        if all(_is_free(port) for port in range(first, first + count)):
            return first
    raise RuntimeError(f"no {count} free ports in a row between 10000 and 32000")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
