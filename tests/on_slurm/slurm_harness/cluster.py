"""SlurmCluster: the daemons of a private Slurm, their start and their end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from . import config, database, processes, requirements
from .commands import Commands

# read at once: a process that has become a plain user may no longer see this checkout
_SCRIPTS = {path.name: path.read_text() for path in Path(__file__).parent.glob("*.sh")}
_DETACHED: dict[str, Any] = {
    # a session of its own: Ctrl-C in the terminal is for the tests, which then stop the cluster in order
    "start_new_session": True,
    "stdin": subprocess.DEVNULL,
    "stdout": subprocess.DEVNULL,
    "stderr": subprocess.DEVNULL,
}


class SlurmCluster(Commands):
    """munged, slurmctld, one slurmd for each virtual node, and with ``dbd=True`` slurmdbd on a MariaDB.

    ``folder`` must be new or empty and its path short (60 characters: unix sockets). Everything is in it:
    ``etc``, ``log``, ``state``, ``jobs`` (where commands run) and ``disk/<node>``, which jobs on that node
    see as :attr:`local`. The options are those of :class:`config.Options`. Daemons are children of this
    process, in the foreground; should it die without :meth:`stop`, a keeper process ends them within 2 s.
    """

    def __init__(self, folder: str | os.PathLike, **options: Any) -> None:
        super().__init__(Path(folder).resolve())
        self.options = config.Options(**options)
        self.local = self.folder / "local"
        self.nodes = self.options.names
        self.namespaces = _namespaces()
        self._ports = (0, 0)
        self._daemons: dict[str, subprocess.Popen] = {}
        self._keeper: subprocess.Popen | None = None

    def start(self) -> SlurmCluster:
        """Start all daemons and wait until every node is idle; RuntimeError with the logs when that fails."""
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        if any(self.folder.iterdir()):
            raise ValueError(f"{self.folder}: must be empty, since it is removed in the end")
        (self.folder / ".slurm-test").touch()
        self._ports = config.write(self.folder, self.options)
        keeper = [*_shell("keeper.sh"), str(os.getpid()), str(self.folder)]
        self._keeper = subprocess.Popen(keeper, **_DETACHED)
        try:
            self._start_munge()
            if self.options.dbd:
                self._start_accounting()
            self.start_controller()
            for node in self.nodes:
                self.start_node(node)
            self.wait_idle()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End every process of the cluster, jobs too, at once; the files stay. A second call does nothing."""
        processes.end(self.slurm_conf)
        for process in self._daemons.values():
            process.wait()
        self._daemons.clear()
        if self.options.memory_limits:
            for node in self.nodes:
                requirements.remove_cgroups(node)
        if self._keeper is not None:
            os.killpg(self._keeper.pid, signal.SIGKILL)
            self._keeper.wait()
            self._keeper = None

    def remove(self, keep: Iterable[str] = ()) -> None:
        """Remove the folder of a stopped cluster, or everything in it but the subfolders to ``keep``."""
        if not (self.folder / ".slurm-test").exists():
            return
        if not keep:
            shutil.rmtree(self.folder)
            return
        for path in self.folder.iterdir():
            if path.is_dir() and path.name not in keep:
                shutil.rmtree(path)

    def pids(self) -> dict[int, str]:
        """Process id and command of each live process: daemons, steps, tasks, commands that wait."""
        return {pid: processes.command(pid) for pid in processes.members(self.slurm_conf)}

    # ---- parts that come and go

    def start_controller(self) -> None:
        """Start slurmctld and wait until it answers; after a stop it continues from its saved state."""
        words = ["slurmctld", "-D", "-i"]
        if self.namespaces:  # where a node fails it looks for the srun of each step, by the name of its host
            hosts = 'mount --bind "$0" /etc/hosts && exec "$@"'
            words = [*self.namespaces, "/bin/sh", "-c", hosts, f"{self.folder}/etc/hosts", *words]
        self._spawn("slurmctld", words)
        self._until("slurmctld answers", lambda: _listens(self._ports[0]))

    def stop_controller(self, crash: bool = False) -> None:
        """End slurmctld: with SIGTERM, after which it saves its state, or with SIGKILL."""
        self._end("slurmctld", seconds=0 if crash else 60)

    def start_node(self, node: str) -> None:
        """Start a node's slurmd, also after :meth:`kill_node`; does not wait for it."""
        words = ["slurmd", "-D", "-N", node]
        if self.namespaces:
            privileges = "keep" if os.geteuid() == 0 else "drop"
            words = [*self.namespaces, *_shell("node.sh"), str(self.folder), node, privileges]
        self._spawn(f"slurmd.{node}", words, **{processes.NODE_ENV: node})

    def kill_node(self, node: str, only_slurmd: bool = False) -> None:
        """Cut a node's power: SIGKILL to slurmd, steps and tasks; or to slurmd only: its tasks live on."""
        if not only_slurmd:
            processes.end(self.slurm_conf, node)
        if not self.ended(node):
            self._end(f"slurmd.{node}", seconds=0)

    def ended(self, node: str) -> bool:
        """Whether a node's slurmd does not run."""
        return self._gone(f"slurmd.{node}")

    def node_down(self, node: str, reason: str = "test") -> None:
        """Declare a node down: an instant NODE_FAIL of its jobs. It is idle again once its slurmd answers.

        Its tasks get SIGTERM and live on for up to KillWait. After :meth:`kill_node` it is a power cut that
        Slurm notices at once.
        """
        words = ("scontrol", "update", f"NodeName={node}", "State=DOWN", f"Reason={reason}")
        self.run(*words)
        if self.ended(node) and config.version() >= (23,):
            time.sleep(1.2)  # an answer that it gave while it lived may have brought it back
            self.run(*words)

    def clear(self, seconds: float = 60) -> None:
        """Cancel all jobs (KILL at once), start and resume what was stopped, wait until all nodes are idle."""
        if self._gone("slurmctld"):
            self.start_controller()
        self.run("scancel", f"--user={config.user_name()}")
        for node in self.nodes:
            tasks = processes.members(self.slurm_conf, node)
            keep = {pid for pid in tasks if processes.command(pid) in ("slurmd", "slurmstepd")}
            processes.signal_all(tasks - keep, signal.SIGKILL)
        # after that: until it is executed, a slurmd that starts is a shell, and would be taken for a task
        for node in self.nodes:
            if self._gone(f"slurmd.{node}"):
                self.start_node(node)
        drained = self.run("sinfo", "-h", "-N", "-t", "drain", "-o", "%N").stdout.split()
        if drained:
            self.run("scontrol", "update", f"NodeName={','.join(set(drained))}", "State=RESUME")
        self.wait_idle(seconds)

    @contextlib.contextmanager
    def drained(self) -> Iterator[None]:
        """Every node is: jobs wait."""
        nodes = ",".join(self.nodes)
        self.run("scontrol", "update", f"NodeName={nodes}", "State=DRAIN", "Reason=test")
        try:
            yield
        finally:
            self.run("scontrol", "update", f"NodeName={nodes}", "State=RESUME")

    def wait_idle(self, seconds: float = 60) -> None:
        """Wait until every node is idle and answers."""

        def idle() -> bool:
            answer = self.run("sinfo", "-h", "-N", "-o", "%N %T", check=False, timeout=20).stdout
            return {tuple(line.split()) for line in answer.splitlines()} == {(n, "idle") for n in self.nodes}

        self._until("all nodes are idle", idle, seconds)

    # ---- daemons

    def _start_munge(self) -> None:
        at = self.folder
        key = at / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        # --force: munged wants the folder open to all users, but this cluster has one
        words = ["munged", "--foreground", "--force", "--num-threads=2", f"--socket={at}/munge/s"]
        words += [f"--key-file={key}", f"--seed-file={at}/munge/seed"]
        words += [f"--pid-file={at}/pid/munged", f"--log-file={at}/log/munged.log"]
        self._spawn("munged", words)
        self._until("munged answers", lambda: self._ok("munge", "-n", "-S", f"{at}/munge/s"))

    def _start_accounting(self) -> None:
        cache = database.cache_file(self.run)
        cached = database.unpack(self.folder, cache)
        if not cached:
            database.initialise(self.folder, self.env)
        self._start_database()
        if not cached:
            database.create(self.folder, self.run)
        self._start_slurmdbd()
        if not cached:
            self.run("sacctmgr", "-i", "add", "cluster", "t")
            if cache is not None:
                self._end("slurmdbd", seconds=60)
                self._end("mariadbd", seconds=60)
                database.keep(self.folder, cache)
                self._start_database()
                self._start_slurmdbd()
        for name, text in self.options.qos.items():
            self.run("sacctmgr", "-i", "add", "qos", name, *text.split())
        if self.options.qos:
            self.run("sacctmgr", "-i", "modify", "account", "root", "set", f"qos=normal,{','.join(self.options.qos)}")

    def _start_database(self) -> None:
        self._spawn("mariadbd", ["mariadbd", f"--defaults-file={self.folder}/etc/my.cnf"])
        ping = ["mariadb-admin", *database.client_options(self.folder), "ping"]
        self._until("mariadbd answers", lambda: self._ok(*ping))

    def _start_slurmdbd(self) -> None:
        self._spawn("slurmdbd", ["slurmdbd", "-D"], MYSQL_UNIX_PORT=f"{self.folder}/db/s")
        self._until("slurmdbd answers", lambda: _listens(self._ports[1]))

    def _spawn(self, name: str, words: list[str], **more: str) -> None:
        if not self._gone(name):
            raise RuntimeError(f"{name} of {self.folder} runs already")
        # SLURM_CONF also marks the process as ours
        env = {"LANG": "C", "HOME": str(self.folder), "PATH": self.env["PATH"]}
        env.update({"SLURM_CONF": str(self.slurm_conf), **more})
        with open(self.folder / "log" / f"{name}.out", "a") as log:
            streams = {**_DETACHED, "stdout": log, "stderr": log}
            self._daemons[name] = subprocess.Popen(words, env=env, cwd=self.folder, **streams)

    def _gone(self, name: str) -> bool:
        return name not in self._daemons or self._daemons[name].poll() is not None

    def _end(self, name: str, seconds: float) -> None:
        """SIGTERM, and SIGKILL after ``seconds``; with 0 SIGKILL at once."""
        process = self._daemons.pop(name)
        if seconds:
            process.terminate()
            try:
                process.wait(seconds)
                return
            except subprocess.TimeoutExpired:
                pass
        process.kill()
        process.wait()

    def _ok(self, *words: str) -> bool:
        return self.run(*words, check=False, timeout=20).returncode == 0

    def _until(self, what: str, holds: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            dead = [name for name in self._daemons if self._gone(name)]
            if dead or time.monotonic() > deadline:
                why = f"ended: {', '.join(dead)}" if dead else f"not within {seconds:.0f} s"
                raise RuntimeError(f"{self.folder}: waited until {what}, but {why}\n{self.diagnose()}")
            time.sleep(0.05)


def _shell(script: str) -> list[str]:
    """The command for a script of this package, by its text, which needs no access to this checkout."""
    return ["/bin/sh", "-c", _SCRIPTS[script], script]


def _listens(port: int) -> bool:
    """Whether a daemon takes connections (Slurm's own commands wait a second before they ask again)."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _namespaces() -> list[str]:
    """The command that gives a node its own host name and mounts; empty where the kernel forbids it."""
    words = ["unshare", "--uts", "--mount"]
    if os.geteuid() != 0:
        words += ["--user", "--map-current-user", "--keep-caps"]
    probe = "hostname n1 && mount -t tmpfs tmpfs /dev/shm && setpriv --ambient-caps=-all true"
    try:
        done = subprocess.run([*words, "sh", "-c", probe], capture_output=True, timeout=30)
    except FileNotFoundError:
        return []
    return words if done.returncode == 0 else []
