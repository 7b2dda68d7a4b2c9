"""The doctor's job: submitted as a run's jobs are, waited for, and read."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..base import processes
from ..base.errors import UserError
from ..chain import signal_lead
from ..job.job import Job
from ..rundir import job_env
from ..rundir.run import Run
from ..slurm import commands, launcher, queue, site
from ..slurm.job_states import ENDED, WAITING, JobState
from ..slurm.sbatch import JobRequest, environment_lines
from . import sharing
from .asked import Asked
from .finding import Finding, fails, merged, ok

MINUTES = 10  # time limit of the job
LOG = "shell.log"  # of the batch shell
UNSEEN = 71  # with which the batch shell ends on a node that does not see the folder
VISIBLE_SECONDS = 30.0  # that a file of a node may take to be seen here
LOST_SECONDS = 20.0  # after which a job that Slurm does not list any more has ended
# a job that waits for these would wait until the cluster is changed
NEVER = ("PartitionTimeLimit", "PartitionNodeLimit", "PartitionDown", "PartitionInactive", "BadConstraints",
         "InvalidQOS", "InvalidAccount", "AccountNotAllowed", "QOSNotAllowed", "AssocMaxWallDurationPerJobLimit")


class Ended(Exception):
    """The job came to no result; the text says why."""


@dataclasses.dataclass
class Visit:
    """One job on the nodes.

    Attributes:
        own: The folder of marks in the runs folder, which the job works in.
    """

    asked: Asked
    own: Path
    token: str
    patience: float
    job_id: str = ""
    nodes: list[str] = dataclasses.field(default_factory=list)

    @property
    def job(self) -> Job:
        """The job's own place and environment, on few GPUs and for a few minutes."""
        job = self.asked.job
        limit = str(min(MINUTES, job.time_minutes))
        return dataclasses.replace(job, name="doctor", nodes=min(job.nodes, 2), gpus=1, time=limit,
                                   signal_lead=signal_lead.within(30, limit))

    def findings(self) -> Iterator[Finding]:
        """Submit, wait, and read what the nodes have left."""
        try:
            self._run(processes.task("probe", str(self.own)), self.job, "doctor")
        except Ended as why:
            yield fails("node.job", str(why), "see the line of sbatch above, or `scontrol show job`")
            return
        yield ok("node.job", f"job {self.job_id} ran on {', '.join(self.nodes)}")
        found = list(self.read("alone"))
        yield from merged(found)
        yield from self._without_findings(found)
        yield from merged(self.read("network"))
        if any(one.id == "node.scratch" and one.state == "ok" for one in found):
            with contextlib.suppress(Ended):
                again = dataclasses.replace(self.job, nodes=1, slurm={**self.job.slurm, "nodelist": self.nodes[0]})
                self._run(processes.task("probe", str(self.own), "again"), again, "doctor-again")
                yield from self.read("again")

    def _run(self, task: Any, job: Job, link: str) -> None:
        run = Run(self.own)
        token = f"ecm-cluster:doctor:{self.token}{'-2' if link != 'doctor' else ''}"
        request = JobRequest(run, job, link, token)
        request = dataclasses.replace(request, setup=self._lines(request))
        run.task_pickle(link).parent.mkdir(exist_ok=True)
        job_env.write(run, job)
        launcher.write_task(request, task)
        for path in self.own.glob("ended*"):
            path.unlink()
        try:
            self.job_id = launcher.submit(request)
        except UserError as error:
            raise Ended(str(error)) from None
        try:
            self._wait()
        except BaseException:
            commands.cancel(self.job_id)
            self._settle()
            raise

    def _lines(self, request: JobRequest) -> list[str]:
        """The batch shell before srun: which nodes see the folder, the job's own environment, the task's pickle."""
        own, run = shlex.quote(str(self.own)), Run(self.own)
        pickle = shlex.quote(str(run.submitit_dir)) + '/"${SLURM_JOB_ID}"_submitted.pkl'
        seen = """sh -c '[ -e "$0/token" ] && : > "$0/seen.$SLURMD_NODENAME"'"""
        return [
            f"for look in 1 2 3; do [ -e {own}/token ] && break; sleep 1; done",
            f"[ -e {own}/token ] || exit {UNSEEN}",
            f'cd {own}; exec >> {own}/{LOG} 2>&1; trap \'echo "$?" > {own}/ended\' EXIT',
            "ecm_failed() { echo \"setup line failed with code $1\"; exit \"$1\"; }",
            f"srun --export=ALL -n $SLURM_JOB_NUM_NODES -N $SLURM_JOB_NUM_NODES {seen} {own} || exit {UNSEEN}",
            *environment_lines(run, request.job),
            f'cp {shlex.quote(str(run.task_pickle(request.link)))} {pickle}',
        ]

    def _wait(self) -> None:
        """Until the job has ended, saying what it waits for.

        Raises:
            Ended: It will not start, did not start in time, or ended without a result.
        """
        began, said, listed = time.monotonic(), "", time.monotonic()
        while not _exists(self.own / "ended"):
            known = queue.query([self.job_id])
            state = (known or {}).get(self.job_id)
            now = time.monotonic()
            if state is not None or known is None:
                listed = now
            text = f"job {self.job_id}: " + ("Slurm does not answer" if known is None else _words(state))
            if text != said:
                print(f"{text}, after {now - began:.0f} s", file=sys.stderr, flush=True)
                said = text
            if state is not None and state.kind == ENDED or now - listed > LOST_SECONDS:
                break
            if now - began > 60 * (self.patience + 2 * MINUTES):
                raise Ended(f"{text}, and it has not ended within {(now - began) / 60:.0f} minutes")
            if state is not None and state.kind == WAITING and (
                    state.is_held or state.reason in NEVER or now - began > 60 * self.patience):
                why = "and would never start" if state.is_held or state.reason in NEVER else "and was cancelled"
                raise Ended(f"job {self.job_id} did not start within {now - began:.0f} s ({_words(state)}), {why}")
            time.sleep(1.0)
        shown_job = commands.show_job(self.job_id) or {}
        self.nodes = site.hosts(shown_job.get("NodeList", "")) or sorted(p.name.partition(".")[2] for p in
                                                                    self.own.glob("seen.*"))
        if not list(self.own.glob("findings.*")):
            self._explain(shown_job)

    def _explain(self, shown_job: dict[str, str]) -> None:
        code = shown_job.get("ExitCode", "").partition(":")[0]
        with contextlib.suppress(OSError, ValueError):
            code = str(int((self.own / "ended").read_text(encoding="utf-8")))
        blind = [node for node in self.nodes if not (self.own / f"seen.{node}").exists()]
        if code == str(UNSEEN) or (blind and self.nodes):
            raise Ended(f"{', '.join(blind or self.nodes)}: {self.asked.runs_dir} is not shared: what was written here "
                        "is not seen there; --runs-dir names another folder")
        said = last_line([self.own / LOG, *Run(self.own).submitit_dir.glob("*.out")])
        raise Ended(f"job {self.job_id} on {', '.join(self.nodes) or 'no node'} ended with code {code or 'unknown'} "
                    f"({shown_job.get('JobState', 'state unknown')}): {said}")

    def read(self, what: str) -> Iterator[Finding]:
        """What the nodes have left of a kind of findings."""
        for path in sorted(self.own.glob(f"findings.*.{what}.json")):
            node = path.name.split(".", 1)[1].rpartition(f".{what}.json")[0]
            for one in json.loads(path.read_text(encoding="utf-8")):
                yield Finding(one["id"], one["state"], one["text"], one["remedy"], (node,))

    def _without_findings(self, found: list[Finding]) -> Iterator[Finding]:
        """Nodes of the job that have left nothing, or whose marks are not seen here."""
        answered = {node for one in found for node in one.nodes}
        for node in self.nodes:
            if node not in answered:
                yield Finding("node.job", "fails", "it has left no findings", "see whether it can run Python", (node,))
        shared = [node for node in self.nodes if any(one.id == "node.folder.runs" and one.state == "ok"
                                                     and node in one.nodes for one in found)]
        late = sharing.answers(self.own, self.token, shared, VISIBLE_SECONDS)
        if late:
            yield fails("node.folder.runs.seen", f"what {', '.join(late)} wrote to {self.asked.runs_dir} is not seen "
                        f"here after {VISIBLE_SECONDS:.0f} s", "name another folder with --runs-dir")

    def _settle(self) -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            state = (queue.query([self.job_id]) or {}).get(self.job_id)
            if state is None or state.kind == ENDED:
                return
            time.sleep(0.5)


def _exists(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return path.name in os.listdir(path.parent)  # a bare stat may be answered from an NFS client's cache
    return False


def last_line(logs: list[Path]) -> str:
    """What the logs end with, without srun's own errors."""
    lines = [line.strip() for path in logs if path.exists()
             for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
             if line.strip() and "srun: error" not in line]
    return lines[-1] if lines else "it printed nothing"


def _words(state: JobState | None) -> str:
    if state is None:
        return "Slurm does not list it"
    reason = f" ({state.reason})" if state.reason not in ("", "None", "(null)") else ""
    return f"{state.state.lower()}{reason}"
