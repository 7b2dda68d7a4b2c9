"""The process that carries a run through on this machine, where Slurm would on a cluster: start it, find it."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess

from ..base import processes
from ..job import job as jobs
from ..job import sharing
from ..rundir import job_env
from ..rundir.run import Run
from ..slurm import batch_shell
from ..slurm.sbatch import KEPT_HERE, TOKEN_ENV, environment_lines, outside_environment, python_of

DRIVER = "local driver"
CHAIN = "chain"  # the training and what follows it, in place of a link


def alive(run: Run, pid: str) -> bool:
    """Whether a process of this machine carries the run: its command line ends with the run's path, however spelled.

    Anybody can have such a command line, so it has to be the caller's own process, or of the run's owner.
    """
    words = _last_words(pid)
    return (any(processes.runs(DRIVER, word) for word in words)
            and os.path.realpath(words[-1]) == os.path.realpath(run.path) and _of_owner(run, pid))


def _of_owner(run: Run, pid: str) -> bool:
    try:
        return os.stat(f"/proc/{pid}").st_uid in (os.geteuid(), os.stat(run.path).st_uid)
    except OSError:
        return False


def link_of(pid: str) -> str:
    """What a driver runs: ``chain``, or one link; empty if it has ended."""
    words = _last_words(pid)
    return words[-2] if len(words) > 1 else ""


def _last_words(pid: str) -> list[str]:
    """The words of a process's command line; of a shell of an earlier version, those of what it will ``exec``."""
    words = _command_line(pid).rstrip("\0").split("\0")
    last = words[-1].split("\n")[-1]
    with contextlib.suppress(ValueError):
        return shlex.split(last) if last.startswith("exec ") else words
    return []


def find(run: Run) -> str | None:
    """The pid of the driver that carries the run on this machine, if there is one."""
    return next((pid for pid in os.listdir("/proc") if pid.isdigit() and alive(run, pid)), None)


def ranks(run: Run) -> list[str]:
    """Pids of the run's supervisors and workers on this machine: they outlive a driver that was killed, to commit."""
    return [pid for pid in os.listdir("/proc") if pid.isdigit() and _is_rank(run, pid)]


def is_own(run: Run, pid: str) -> bool:
    """Whether a process is a driver or a rank of the run, and the caller's: nothing else may be signalled."""
    with contextlib.suppress(OSError):
        return os.stat(f"/proc/{pid}").st_uid == os.geteuid() and (alive(run, pid) or _is_rank(run, pid))
    return False


def _is_rank(run: Run, pid: str) -> bool:
    words = _command_line(pid).split("\0")
    ours = any(map(processes.is_of_rank, words))
    folders = {os.path.realpath(run.path), os.path.realpath(run.submitit_dir)}
    named = ours and any(os.path.isabs(word) and os.path.realpath(word) in folders for word in words)
    return named and _of_owner(run, pid)


def _command_line(pid: str) -> str:
    """The words of a process with a NUL behind each; empty where it has gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as handle:
            return os.fsdecode(handle.read())
    except OSError:
        return ""


def start(run: Run, job: jobs.Job, link: str = CHAIN, token: str = "") -> str:
    """Start the process that carries a run, or one link of it, through on this machine; it outlives the caller.

    Args:
        token: That it goes by in the run's records; empty: none.

    Returns:
        Its pid, which is the run's job id.
    """
    env = {**outside_environment(os.environ, KEPT_HERE), TOKEN_ENV: token}
    run.logs_dir.mkdir(parents=True, exist_ok=True)
    job_env.keep(run, job)
    sharing.close(run.path)
    command = processes.command(python_of(job), DRIVER, link, run.path, code=run.code_dir)
    lines = [*sharing.lines(job.share), *batch_shell.on_this_machine(run, link), *environment_lines(run, job)]
    # in memory, since anybody can read a command line, and the job's environment may hold secrets
    script = os.memfd_create("script", os.MFD_CLOEXEC)
    try:
        os.write(script, "\n".join([f"exec {script}<&-", *lines, "exec " + shlex.join(command), ""]).encode())
        with open(run.local_log, "ab") as log:
            process = subprocess.Popen(["bash", f"/dev/fd/{script}", *command[1:]], env=env, cwd=run.logs_dir,
                                       stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[script],
                                       start_new_session=True)
    finally:
        os.close(script)
    return str(process.pid)
