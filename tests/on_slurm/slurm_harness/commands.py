"""What a user of the cluster does: run commands, submit jobs, wait for them, look at what went wrong."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

_FIELD = re.compile(r"(?:^|\s)([A-Za-z][\w/:]*)=(.*?)(?=\s+[A-Za-z][\w/:]*=|\s*$)")
# what every start of these daemons complains about, without consequence
_NOISE = re.compile("pmix|MPI: Cannot create|hwloc_topo_load|socket dir|state (save )?file|Unauthorized cred")
_FINAL = (
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
)


class Commands:
    """Commands of a user of the Slurm whose files are below ``folder``; they run in ``folder/jobs``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.slurm_conf = folder / "etc" / "slurm.conf"
        self.jobs = folder / "jobs"

    @property
    def env(self) -> dict[str, str]:
        """The user's environment: the caller's, without what an outer Slurm or a test has set."""
        outer = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
        path = f"{kept.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"
        return {**kept, "PATH": path, "SLURM_CONF": str(self.slurm_conf)}

    def run(
        self,
        *words: str,
        check: bool = True,
        timeout: float = 60,
        input: str = "",
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command, its output captured as text; a failure is a RuntimeError if ``check``."""
        done = subprocess.run(
            words,
            env=self.env if env is None else env,
            cwd=cwd or self.jobs,
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(words)}: rc {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def submit(self, *words: str, script: str = "", cwd: Path | None = None) -> str:
        """``sbatch --parsable`` with these arguments, or with the text of a script; returns the job id."""
        answer = self.run("sbatch", "--parsable", *words, input=script, cwd=cwd).stdout
        return answer.strip().partition(";")[0]

    def job(self, job_id: str | int) -> dict[str, str]:
        """Fields of ``scontrol show job``, of an array its first record; KeyError for an unknown job."""
        done = self.run("scontrol", "show", "job", "-o", str(job_id), check=False)
        if done.returncode != 0:
            raise KeyError(f"job {job_id}: {done.stderr.strip()}")
        return dict(_FIELD.findall(done.stdout.splitlines()[0]))

    def output(self, job_id: str | int) -> str:
        """What the job has written to its standard output so far."""
        path = Path(self.job(job_id)["StdOut"])
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_for(
        self, job_id: str | int, states: str | Iterable[str] = _FINAL, timeout: float = 60, **fields: str
    ) -> dict[str, str]:
        """Wait until the job is in one of ``states`` (default: any final one) and its ``fields`` are these.

        Returns the job's fields; TimeoutError with :meth:`diagnose` when that does not come in ``timeout`` s.
        """
        wanted = (states,) if isinstance(states, str) else tuple(states)
        deadline, pause = time.monotonic() + timeout, 0.05
        while True:
            job = self.job(job_id)
            if job["JobState"] in wanted and all(job.get(k) == v for k, v in fields.items()):
                return job
            if time.monotonic() > deadline:
                seen = ", ".join(f"{k}={job.get(k)}" for k in ("JobState", "Reason", "Restarts", *fields))
                raise TimeoutError(f"job {job_id}: {seen}; expected {wanted} {fields}\n{self.diagnose()}")
            time.sleep(pause)
            pause = min(0.5, pause * 1.5)

    def diagnose(self, lines: int = 15) -> str:
        """The queue, the nodes and the end of each log, for the report of a failing test."""
        parts = []
        for words in (["squeue", "-a"], ["sinfo", "-N", "-p", "high", "-o", "%N %T %E"]):
            try:
                answer = self.run(*words, check=False, timeout=10)
                parts.append(f"$ {' '.join(words)}\n{answer.stdout}{answer.stderr}")
            except (OSError, subprocess.SubprocessError) as error:
                parts.append(f"$ {' '.join(words)}\n{error}\n")
        logs = [p for p in (*self.folder.glob("log/*"), *self.jobs.glob("slurm-*.out")) if p.stat().st_size]
        for path in sorted(logs, key=lambda p: p.stat().st_mtime):
            if path.suffix == ".out" and path.with_suffix(".log").exists():
                continue  # in the foreground Slurm's daemons write everything to standard error too
            text = [line for line in path.read_text(errors="replace").splitlines() if not _NOISE.search(line)]
            parts.append("\n".join([f"--- {path}", *text[-lines:], ""]))
        return "\n".join(parts)
