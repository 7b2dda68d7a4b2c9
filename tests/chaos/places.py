"""Where runs are disturbed: this machine, or a Slurm on it; how a victim is found there."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ecm_cluster import driver, liveness
from ecm_cluster.run import Run

from .plan import Dice, Kill, Shape

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "slurm"))


class Missed(Exception):
    """The victim is not there (any more)."""


class Place:
    """What both have in common: the processes of a run on this machine."""

    name = ""
    poll_seconds = 0.5
    env: dict[str, str] = {}

    def flags(self, dice: Dice | None, shape: Shape) -> list[str]:
        """Flags of submit; without dice those of a run that nobody disturbs."""
        raise NotImplementedError

    def strike(self, run: Run, attempt: int, kill: Kill) -> None:
        """Send the signal.

        Raises:
            Missed: There is nobody to send it to.
        """
        pid = self.victim(run, attempt, kill)
        try:
            os.kill(pid, getattr(signal, kill.signal))
        except ProcessLookupError:
            raise Missed(kill.victim) from None

    def victim(self, run: Run, attempt: int, kill: Kill) -> int:
        task = next((e["pid"] for e in run.events() if e.kind == "start" and e.attempt == attempt
                     and e["rank"] == kill.rank), None) if kill.victim != "writer" else first_task(run, attempt)
        if task is None:
            raise Missed("no task")
        if kill.victim == "task":
            return task
        worker = only(p for p in children(task) if "ecm_cluster.node.train" in words_of(p))
        if kill.victim == "worker":
            return worker
        if kill.victim == "writer":
            return only(p for p in children(worker) if "writer.main()" in words_of(p))
        return only(p for p in children(worker) if "writer.main()" not in words_of(p))

    def alive(self, run: Run) -> bool:
        """Whether anything of the run waits or runs."""
        raise NotImplementedError

    def left_over(self, run: Run) -> list[str]:
        """Processes of an ended run that have not ended."""
        return driver.ranks(run)


def first_task(run: Run, attempt: int) -> int | None:
    return next((e["pid"] for e in run.events() if e.kind == "start" and e.attempt == attempt and e["rank"] == 0), None)


def children(pid: int) -> list[int]:
    """Processes that another one has started, from all of its threads."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text().split())
    return found


def words_of(pid: int) -> str:
    """The command line of a process; empty where it has gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def only(pids: Any) -> int:
    """The first of the processes.

    Raises:
        Missed: There is none.
    """
    for pid in pids:
        return pid
    raise Missed("no such process")


class Local(Place):
    """The local driver."""

    name = "local"

    def flags(self, dice: Dice | None, shape: Shape) -> list[str]:
        return ["--cluster", "local", "--gpus", str(shape.ranks)]

    def victim(self, run: Run, attempt: int, kill: Kill) -> int:
        if kill.victim not in ("driver", "controller"):
            return super().victim(run, attempt, kill)
        found = driver.find(run)
        if found is None:
            raise Missed("no driver")
        if kill.victim == "driver":
            return int(found)
        return only(p for p in children(int(found)) if "submitit.local._local" in words_of(p))

    def alive(self, run: Run) -> bool:
        return bool(liveness.on_this_machine(run))

    def left_over(self, run: Run) -> list[str]:
        found = driver.find(run)
        return super().left_over(run) + ([found] if found else [])


class OnSlurm(Place):
    """A cluster of the test harness."""

    name = "slurm"
    poll_seconds = 3.0

    def __init__(self, cluster: Any) -> None:
        self.cluster, self.env = cluster, {**cluster.env}
        self._one_at_a_time = threading.Lock()

    def flags(self, dice: Dice | None, shape: Shape) -> list[str]:
        nodes = dice.nodes() if dice else 1
        return ["--nodes", str(nodes), "--gpus", str(shape.ranks // nodes), "--partition",
                dice.partition() if dice else "high", "--mem-per-gpu", "1G", "--time", "120"]

    def strike(self, run: Run, attempt: int, kill: Kill) -> None:
        job_id = run.read_attempt(attempt)["job_id"]
        if kill.victim in ("worker", "task", "writer", "loader"):
            return super().strike(run, attempt, kill)
        with self._one_at_a_time:
            job = self.cluster.job(job_id)
            if job["JobState"] != "RUNNING":
                raise Missed(f"job {job_id} is {job['JobState']}")
            if kill.victim in ("preempt", "node"):
                names = self.cluster.run("scontrol", "show", "hostnames", job["NodeList"]).stdout.split()
                self._strike_node(names[kill.rank % len(names)], kill.victim)
                return None
            words = {"job": ["scancel", f"--signal={kill.signal[3:]}"], "requeue": ["scontrol", "requeue"],
                     "cancel": ["scancel"], "batch": ["scancel", "--signal=KILL", "--batch"]}[kill.victim]
            self.cluster.run(*words, job_id)
        return None

    def _strike_node(self, node: str, victim: str) -> None:
        if victim == "preempt":
            self.cluster.submit("-p", "high", "--exclusive", "--nodelist", node, "--time", "5", "--wrap", "sleep 2")
            return
        self.cluster.kill_node(node)
        self.cluster.node_down(node)
        self.cluster.start_node(node)

    def alive(self, run: Run) -> bool:
        return bool(liveness.on_slurm(run))


@contextlib.contextmanager
def slurm() -> Iterator[OnSlurm]:
    """A Slurm of this campaign's own, whose commands this process can run too."""
    import tempfile

    from slurm_harness import SlurmCluster

    cluster = SlurmCluster(tempfile.mkdtemp(prefix="ecs-", dir="/tmp"))
    before = dict(os.environ)
    try:
        cluster.start()
        os.environ.update({name: cluster.env[name] for name in ("SLURM_CONF", "PATH")})
        yield OnSlurm(cluster)
    finally:
        os.environ.clear()
        os.environ.update(before)
        cluster.stop()
        cluster.remove()
