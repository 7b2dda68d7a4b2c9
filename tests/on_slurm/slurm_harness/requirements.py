"""Which Debian packages a cluster needs and this machine lacks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_SLURM = {
    "munged": "munge",
    "munge": "munge",
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "sbatch": "slurm-client",
    "scontrol": "slurm-client",
}
_ACCOUNTING = {
    "slurmdbd": "slurmdbd slurm-wlm-mysql-plugin",
    "sacctmgr": "slurm-client",
    "mariadbd": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
    "mariadb-admin": "mariadb-client",
    "mariadb": "mariadb-client",
}


def missing_packages(dbd: bool = False, path: str | None = None) -> list[str]:
    """Debian packages to install, sorted; none if all programs are on ``path`` ($PATH and /usr/sbin)."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin" if path is None else path
    programs = {**_SLURM, **(_ACCOUNTING if dbd else {})}
    packages = {package for program, package in programs.items() if shutil.which(program, path=path) is None}
    return sorted({word for package in packages for word in package.split()})


def can_limit_memory() -> bool:
    """Whether Slurm can make memory cgroups here: it needs root and the hierarchy of version 1."""
    return os.geteuid() == 0 and os.access("/sys/fs/cgroup/memory/release_agent", os.W_OK)


def remove_cgroups(node: str) -> None:
    """Remove what slurmd makes for a node and leaves behind when it is killed; nothing may run in it any more."""
    top = Path("/sys/fs/cgroup/memory") / f"slurm_{node}"
    for folder in sorted(top.glob("**/"), reverse=True):  # a cgroup is a folder that only looks filled
        folder.rmdir()
