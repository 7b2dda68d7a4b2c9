"""Run a command beside a cluster of its own: ``python -m slurm_harness [--dbd] [--user nobody] -- COMMAND
...``.

The command finds sbatch, squeue and slurm.conf in its environment, and the cluster ends with it.
"""

from __future__ import annotations

import argparse
import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

from .cluster import SlurmCluster


def main() -> int:
    """Start the cluster, run the command in its folder for jobs, stop; the command's exit code."""
    parser = argparse.ArgumentParser(prog="python -m slurm_harness", description=__doc__)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--gpus", type=int, default=8, help="of each node")
    parser.add_argument("--dbd", action="store_true", help="with accounting (slurmdbd and MariaDB)")
    parser.add_argument("--user", help="as this user (needs root)")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ecs-", dir="/tmp"))
    if args.user:
        become(pwd.getpwnam(args.user), folder)
    cluster = SlurmCluster(folder, nodes=args.nodes, gpus=args.gpus, dbd=args.dbd)
    try:
        cluster.start()
        print(f"SLURM_CONF={cluster.slurm_conf}", file=sys.stderr, flush=True)
        return subprocess.run(args.command, env=cluster.env, cwd=cluster.jobs).returncode
    finally:
        cluster.stop()
        cluster.remove()


def become(user: pwd.struct_passwd, folder: Path) -> None:
    """Give up root for good. What is imported later must be readable by ``user``, so nothing is."""
    os.chown(folder, user.pw_uid, user.pw_gid)
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    os.environ.update({"HOME": str(folder), "USER": user.pw_name, "LOGNAME": user.pw_name})
    os.chdir(folder)


if __name__ == "__main__":
    raise SystemExit(main())
