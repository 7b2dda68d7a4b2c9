"""Slurm's commands about jobs that were submitted: query, requeue, change, cancel. Submitting is in ``launcher.py``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping

from .job_states import script_name
from .sbatch import KEPT

COMMAND_TIMEOUT = 60  # seconds; slurmctld under load answers after some ten
SETTINGS = ("SLURM_", "SQUEUE_", "SACCT_", "SCONTROL_", "SCANCEL_", "SINFO_", "SBATCH_")


def slurm_available() -> bool:
    """Whether this machine has Slurm's commands."""
    return shutil.which("sbatch") is not None


def said(text: str) -> str:
    """What a command of Slurm printed as its error, in one line."""
    lines = [re.split("error: |fatal: ", line, maxsplit=1)[-1].strip() for line in text.splitlines() if line.strip()]
    return "; ".join(dict.fromkeys(lines))


def run_command(*command: str, timeout: float = COMMAND_TIMEOUT) -> subprocess.CompletedProcess[str] | None:
    """A Slurm command without what the user's shell would have it leave out; None where it is missing or too slow."""
    try:
        return subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=timeout,
                              check=False, stdin=subprocess.DEVNULL, env=clean_environment(os.environ))
    except (OSError, subprocess.TimeoutExpired):
        return None


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment in which Slurm's commands answer what they are asked, and no setting filters or formats it."""
    return {k: v for k, v in environ.items() if k in KEPT or not k.startswith(SETTINGS)}


def ask(*command: str, timeout: float = COMMAND_TIMEOUT) -> str | None:
    """Output of a Slurm command, or None where it is missing, fails or does not answer."""
    done = run_command(*command, timeout=timeout)
    return done.stdout if done is not None and done.returncode == 0 else None


def can_ask() -> bool:
    """Whether this machine has what asks about a job: some sites leave it out on compute nodes."""
    return shutil.which("scontrol") is not None


# 3 s: a task asks within its grace, so slurmctld that is slower counts as down, and is asked again
def show_job(job_id: str, timeout: float = 3.0) -> dict[str, str] | None:
    """``scontrol show job`` as a dict, or None where Slurm does not answer in time."""
    out = ask("scontrol", "-o", "show", "job", job_id, timeout=timeout)
    if not out:
        return None
    return dict(re.findall(r"(\S+?)=(.*?)(?=\s+[A-Za-z:/]+=|\s*$)", out.splitlines()[0]))


def is_of(answer: Mapping[str, str] | None, token: str) -> bool:
    """Whether :func:`show_job` says nothing against its being the job that was submitted under a token."""
    return not (answer and token) or answer.get("Comment") == token or script_name(token) in answer.get("Command", "")


def _is_another(job_id: str, token: str) -> bool:
    """Whether an id belongs to another job than the one that was submitted under a token, which is then not touched."""
    return bool(token) and can_ask() and not is_of(show_job(job_id), token)


def past_states(job_id: str) -> list[str]:
    """How each start of a job ended, oldest first, as accounting has it; empty without accounting."""
    # longer than for scontrol: asked as an attempt begins, when no grace is running
    out = ask("sacct", "-D", "-X", "-n", "-P", "-o", "JobIDRaw,State,Start", "-j", job_id, timeout=10.0) or ""
    rows = [line.split("|") for line in out.splitlines() if line.count("|") == 2]
    return [state.split(" ")[0] for _, state, _ in sorted(rows, key=lambda row: row[2])]


def requeue(job_id: str, restart: int, token: str = "") -> bool:
    """Ask Slurm to run the job again under the same id; False where it refuses, or the id is another job's by now.

    Asked again where it fails for no reason that Slurm tells: under load an answer gets lost, and the job with it.

    Args:
        restart: How often Slurm had restarted the job when this start of it began.
        token: That it was submitted under; empty: not known.
    """
    if _is_another(job_id, token):
        return False
    for pause in (1.0, 2.0, 0.0):
        if ask("scontrol", "requeue", job_id) is not None:
            return True
        answer = show_job(job_id) if can_ask() else {}
        if answer is not None and int(answer.get("Restarts") or 0) > restart:
            return True  # it was only the answer that got lost
        if answer is not None and (answer.get("Requeue") != "1" or answer.get("JobState") != "RUNNING"):
            return False
        time.sleep(pause)
    return False


def depend(job_id: str, dependency: str, token: str = "") -> bool:
    """Let a job that has not started wait for another one, e.g. ``afterok:7``; False where it does not.

    Of an array, those elements that have not started.
    """
    if _is_another(job_id, token):
        return False
    # of an array Slurm changes what it can, and says that it failed where an element has ended
    ask("scontrol", "update", f"JobId={job_id}", f"Dependency={dependency}")
    answers = (ask("scontrol", "-o", "show", "job", job_id) or "").splitlines()
    # Slurm also takes the change for a job that it is about to end, since what it waited for has failed
    pending = [line for line in answers if "JobState=PENDING" in line]
    return bool(pending) and all(f"Dependency={dependency}" in line for line in pending)


def release(job_id: str, token: str = "") -> bool:
    """Let a job wait for no other job any more; False where Slurm refuses, or cannot be asked from here."""
    return not _is_another(job_id, token) and ask("scontrol", "update", f"JobId={job_id}", "Dependency=") is not None


def leave_out(job_id: str, nodes: str, token: str = "") -> bool:
    """Keep a job that has not started off all of these nodes, a host list; False where Slurm refuses."""
    change = ("scontrol", "update", f"JobId={job_id}", f"ExcNodeList={nodes}")
    return not _is_another(job_id, token) and ask(*change) is not None


def cancel(job_id: str, token: str = "") -> bool:
    """scancel; False where Slurm refuses."""
    return not _is_another(job_id, token) and ask("scancel", job_id) is not None
