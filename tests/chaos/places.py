"""Where runs are disturbed: this machine, or a Slurm on it; how a victim is found there."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ecm_cluster.backends import driver, liveness
from ecm_cluster.rundir.run import Run

from .plan import Dice, Kill, Shape

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "on_slurm"))


class Missed(Exception):
    """The victim does not exist (any more)."""


class Place:
    """What both have in common: the processes of a run on this machine."""

    name = ""
    poll_seconds = 0.5
    env: dict[str, str] = {}

    scratch_of_node = ""  # below the run's scratch folder

    def flags(self, dice: Dice | None, shape: Shape) -> list[str]:
        """Flags of submit; without dice those of a run that nobody disturbs."""
        raise NotImplementedError

    def strike(self, run: Run, attempt: int, kill: Kill) -> int:
        """Send the signal; how many times it was done.

        Raises:
            Missed: There is nobody to send it to.
        """
        pid = self.victim(run, attempt, kill)
        try:
            os.kill(pid, getattr(signal, kill.signal))
        except ProcessLookupError:
            raise Missed(kill.victim) from None
        return 1

    def victim(self, run: Run, attempt: int, kill: Kill) -> int:
        task = next((e["pid"] for e in run.events() if e.kind == "start" and e.attempt == attempt
                     and e["rank"] == kill.rank), None) if kill.victim != "writer" else first_task(run, attempt)
        if task is None:
            raise Missed("no task")
        if kill.victim == "task":
            return task
        worker = only(p for p in children(task) if "ecm_cluster.node.training.worker" in words_of(p))
        if kill.victim == "worker":
            return worker
        if kill.victim == "writer":
            return only(p for p in children(worker) if "writer.main()" in words_of(p))
        return only(p for p in children(worker) if "writer.main()" not in words_of(p))

    def writer(self, run: Run) -> int:
        """The checkpoint writer of the newest attempt."""
        return self.victim(run, run.newest_attempt(), Kill("", victim="writer"))

    def lose_node(self, pid: int) -> Callable[[], None] | None:
        """Have the node of a process given up while the process lives; returns what brings the node back."""
        return None

    def alive(self, run: Run) -> bool:
        """Whether anything of the run waits or runs."""
        raise NotImplementedError

    def carriers(self, run: Run) -> list[str]:
        """What would start or continues attempts of the run: one thing at most, except for moments."""
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
        return bool(liveness.alive(run))

    def carriers(self, run: Run) -> list[str]:
        return [pid for pid in os.listdir("/proc") if pid.isdigit() and driver.alive(run, pid)]

    def left_over(self, run: Run) -> list[str]:
        return super().left_over(run) + self.carriers(run)


class OnSlurm(Place):
    """A cluster of the test harness."""

    name = "slurm"
    poll_seconds = 3.0
    scratch_of_node = "$SLURMD_NODENAME"

    def __init__(self, cluster: Any) -> None:
        self.cluster, self.env = cluster, {**cluster.env}
        self.by_qos = cluster.options.preempt == "qos"
        self._one_at_a_time = threading.Lock()

    def flags(self, dice: Dice | None, shape: Shape) -> list[str]:
        nodes = dice.nodes() if dice else 1
        name = "high"
        if dice:
            name = dice.partition(["low", "lown", "lowc", *(["lowk"] if self.by_qos else [])])
        return ["--nodes", str(nodes), "--gpus", str(shape.ranks // nodes), *self._under(name), "--mem-per-gpu", "1G",
                "--time", "120"]

    def _under(self, name: str) -> list[str]:
        return ["--qos" if self.by_qos else "--partition", name]

    def strike(self, run: Run, attempt: int, kill: Kill) -> int:
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
                return 1
            if kill.victim == "burst":
                return self._requeue_early(job_id)
            words = {"job": ["scancel", f"--signal={kill.signal[3:]}"], "requeue": ["scontrol", "requeue"],
                     "cancel": ["scancel"], "batch": ["scancel", "--signal=KILL", "--batch"]}[kill.victim]
            self.cluster.run(*words, job_id)
        return 1

    def _requeue_early(self, job_id: str) -> int:
        """Requeue the job three times, each time as soon as it runs; how often that was possible."""
        for count in range(3):
            if self.cluster.run("scontrol", "requeue", job_id, check=False).returncode != 0:
                return count
            deadline = time.monotonic() + 40
            while (job := self.cluster.job(job_id))["JobState"] != "RUNNING" and time.monotonic() < deadline:
                time.sleep(0.2)
            time.sleep(0.5 * count)
            if job["JobState"] != "RUNNING":
                return count + 1
        return 3

    def lose_node(self, pid: int) -> Callable[[], None] | None:
        try:
            environ = dict(entry.partition("=")[::2] for entry in
                           Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0"))
        except OSError:
            return None
        node = environ.get("SLURMD_NODENAME")
        if node is None:
            return None
        with self._one_at_a_time:
            self.cluster.kill_node(node, only_slurmd=True)
            self.cluster.node_down(node)

        def back() -> None:
            with self._one_at_a_time:
                if self.cluster.ended(node):  # else another run's power cut has brought it back
                    self.cluster.kill_node(node)
                    self.cluster.start_node(node)

        return back

    def _strike_node(self, node: str, victim: str) -> None:
        if victim == "preempt":
            self.cluster.submit(*self._under("high"), "--exclusive", "--nodelist", node, "--time", "5",
                                "--wrap", "sleep 2")
            return
        self.cluster.kill_node(node)
        self.cluster.node_down(node)
        self.cluster.start_node(node)

    def alive(self, run: Run) -> bool:
        return bool(liveness.alive(run))

    def carriers(self, run: Run) -> list[str]:
        """Jobs whose batch script is in the run."""
        said = self.cluster.run("squeue", "-h", "-a", "-o", "%i %T %o", check=False).stdout.splitlines()
        return [line for line in said if f"{run.path}/" in line]

    def left_over(self, run: Run) -> list[str]:
        return super().left_over(run) + self.carriers(run)


# by the names of the partitions that do the same
QOS = {"low": "PreemptMode=requeue GraceTime=5", "lown": "PreemptMode=requeue GraceTime=0",
       "lowc": "PreemptMode=cancel GraceTime=5", "lowk": "PreemptMode=cancel GraceTime=0",
       "high": "Preempt=low,lown,lowc,lowk"}


@contextlib.contextmanager
def slurm(by_qos: bool) -> Iterator[OnSlurm]:
    """A Slurm of this campaign's own, whose commands this process can run too."""
    import tempfile

    from slurm_harness import SlurmCluster

    options = {"preempt": "qos", "dbd": True, "qos": QOS} if by_qos else {}
    cluster = SlurmCluster(tempfile.mkdtemp(prefix="ecs-", dir="/tmp"), **options)
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
