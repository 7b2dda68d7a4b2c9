"""A real Slurm on one machine, for tests: a munged, a slurmctld, virtual nodes with fake GPUs, and with
``dbd=True`` a slurmdbd on a MariaDB; all of it private, on loopback, under one short temporary folder.

Needs Debian's packages ``slurm-wlm slurm-client munge`` (and ``slurmdbd slurm-wlm-mysql-plugin
mariadb-server`` with accounting), a Slurm built with ``--enable-multiple-slurmd``. No system service is used
and none is disturbed.

    with tempfile.TemporaryDirectory(prefix="ecs-", dir="/tmp") as folder:
        cluster = SlurmCluster(folder, nodes=2, dbd=True).start()
        job = cluster.submit("--partition=low", "--wrap", "srun hostname")
        cluster.wait_for(job, "COMPLETED")
        cluster.stop()

By hand, from ``tests/on_slurm``: ``python -m slurm_harness --dbd -- bash`` (a shell whose sbatch talks to it).

What is real: every daemon and command, munge credentials, scheduling, gres, preemption, requeue,
dependencies, arrays, time limits, node failures, a restart of slurmctld. What is not: cgroups (no device is
enforced, and memory only with ``memory_limits=True`` where ``can_limit_memory()``; two such clusters at once
need another ``prefix``), GPUs (links to /dev/null; CUDA_VISIBLE_DEVICES is set), CPU binding, a network between
nodes, more than one user.

**Nodes.** As root, and as a plain user where the kernel gives user namespaces, each node has a host name,
/etc/hosts (all node names), /dev/shm and disk of its own (``cluster.local`` in jobs,
``cluster.folder/disk/<node>`` outside). Elsewhere (``cluster.namespaces == []``) the nodes share the host's,
and ``n1`` resolves nowhere.

**Partitions.** low (default; REQUEUE with the grace time), lown (REQUEUE, no grace), lowc (CANCEL with
grace), short (time limit 1 min), hidden (as low, shown with ``-a`` only, except to root), and high, which
preempts all of them. Preemption is stock: no user signal. With ``preempt="qos"`` the QOS decide instead: see
``config.Options.qos``.

**Times that surprise** (Slurm 22.05, seconds):

- SIGTERM to SIGKILL is max(KillWait, 5). KillWait is 30 in stock Slurm and ``kill_wait=10`` here.
- The end of a grace time is looked at every KillWait + MessageTimeout only: with 10 + 5, GraceTime 5 lasts
  15.
- Time limits and ``--signal`` are looked at every 30, regardless of the configuration.
- A requeued job waits cred_expire + 1 (here 6; 121 in stock Slurm) before it may start.
- A dead node is noticed after up to 3 x SlurmdTimeout: ``slurmd_timeout=30`` here, so that a loaded machine
  loses no node (5 makes it about 15). ``kill_node`` then ``node_down`` is a power cut that Slurm notices at
  once.
- sacct lags squeue by up to 4.

**Pitfalls.** After ``node_down`` alone, tasks that outlive cred_expire (they ignore SIGTERM) meet the restart
of their job on the same node, which Slurm drains ("Duplicate jobid"), and holds the job; stock times rule
that out. slurmstepd outlives its slurmd; ``stop`` and ``kill_node`` find steps and tasks by the slurm.conf in
their environment, never by name. gres needs ``File=`` (a Count alone makes the node INVAL) with character
devices. slurmdbd.conf has to be of mode 600. PID 1 of a container reaps late, so a zombie is taken for dead.
"""

from .cluster import SlurmCluster
from .requirements import can_limit_memory, missing_packages

__all__ = ["SlurmCluster", "can_limit_memory", "missing_packages"]
