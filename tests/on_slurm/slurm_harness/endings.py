"""What the tests of endings on a real Slurm do to a run, and what they ask of it."""

from __future__ import annotations

from pathlib import Path

from small import ROOT, job_flags, logs_of, verb, wait_until

from ecm_cluster.rundir.run import Run, Work
from slurm_harness import SlurmCluster

SHORT = {"runner__max_epochs": 4}  # 24 steps of about a third of a second


def submit(slurm: SlurmCluster, data: Path, runs: Path, name: str, *flags: object, job: Path | None = None,
           **options: object) -> tuple[Run, str]:
    """Submit a run of one rank, of the demo job or of ``job``; the run, and the id of its training job."""
    given = job_flags(data, runs, name, **{**SHORT, **options})
    verb("submit", job or given[0], *given[1:], *flags, env=slurm.env)
    run = Run(runs / name)
    return run, train_job(run)


def train_job(run: Run) -> str:
    return run.submissions()[0].job_id or ""


def job_file(folder: Path, *lines: str) -> Path:
    """The demo job with further lines of YAML."""
    path = folder / "job.yaml"
    path.write_text("\n".join([(ROOT / "jobs/demo.yaml").read_text(), *lines, ""]))
    return path


def began(run: Work, attempt: int) -> None:
    """Wait until rank 0 of an attempt has started, and has still to import everything."""
    wait_until(lambda: any(e.kind == "start" and e.attempt == attempt for e in run.events()),
               f"attempt {attempt} begins")


def trained(run: Run, attempt: int, steps: int) -> None:
    """Wait until an attempt has come to an iteration."""
    wait_until(lambda: (run.heartbeat(attempt) or {}).get("iteration", 0) >= steps, f"attempt {attempt} trains",
               seconds=400, look=lambda: logs_of(run))


def ends(run: Work, attempt: int) -> list[str]:
    """The causes of an attempt's end, as they were recorded."""
    return [e["cause"] for e in run.events() if e.kind == "end" and e.attempt == attempt]


def preempt(slurm: SlurmCluster, job_id: str) -> None:
    """Let a job of a higher partition take the whole node of a job, for two seconds."""
    node = slurm.job(job_id)["NodeList"]
    high = slurm.submit("-p", "high", "--exclusive", "--nodelist", node, "--time", "5", "--wrap", "sleep 2")
    slurm.wait_for(high)


def worker_of(run: Work, attempt: int, rank: int) -> int:
    """The pid of a rank's worker: the child of the task that its supervisor is."""
    def children() -> list[str]:
        tasks = [e["pid"] for e in run.events() if e.kind == "start" and e.attempt == attempt and e["rank"] == rank]
        return [pid for task in tasks for pid in Path(f"/proc/{task}/task/{task}/children").read_text().split()]

    return int(wait_until(children, f"the worker of rank {rank} starts")[0])
