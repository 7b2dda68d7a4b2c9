"""Which Debian packages a cluster needs and this machine lacks."""

from __future__ import annotations

import os
import shutil

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
    programs = _SLURM | (_ACCOUNTING if dbd else {})
    packages = {package for program, package in programs.items() if shutil.which(program, path=path) is None}
    return sorted({word for package in packages for word in package.split()})
