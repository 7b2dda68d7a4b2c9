"""Where the jobs of a run are, as the verbs see it: a cluster, or this machine in its place."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Optional, Protocol

from ..chain.evaluations import Element
from ..job.job import Job
from ..rundir.run import Run, Submission
from ..slurm.job_states import JobState
from ..slurm.sbatch import JobRequest

Known = Optional[Mapping[str, JobState]]  # what Slurm says of jobs; None: it does not answer


@dataclass(frozen=True)
class Life:
    """Whether a job is alive, and why that is known.

    Attributes:
        alive: None where it is not known.
        text: In words, mostly Slurm's.
        waiting: Alive, and has not started.
        held: Waits until it is released manually.
        vouched: Alive by its heartbeat alone.
        start: When it is expected to start, in seconds since the epoch.
    """

    alive: bool | None
    text: str
    waiting: bool = False
    held: bool = False
    vouched: bool = False
    start: float | None = None


@dataclass(frozen=True)
class Sweep:
    """Elements that are scored by one submission.

    Attributes:
        words: How, in words.
        scoring_only: The model has answered on all images.
    """

    words: str
    elements: list[Element]
    scoring_only: bool = False


@dataclass
class ShortJob:
    """A job of one task, at work or waiting.

    Attributes:
        called: In words, as ``job 12``.
        process: Ends with it, with its exit code.
    """

    called: str
    process: subprocess.Popen[Any]


class Backend(Protocol):
    """What the verbs ask of the place that a run's jobs are in.

    Attributes:
        queues: Whether jobs wait there, in partitions, for each other.
        id_word: What its ids are ids of.
        poll_seconds: Between two looks of who follows a run.
    """

    queues: bool
    id_word: str
    poll_seconds: float

    def require(self, remedy: str, answering: bool = False) -> None:
        """Raise UserError where this machine cannot reach it.

        Args:
            answering: It has to answer now; else it is enough that its commands are installed.
        """

    def cluster_name(self) -> str | None:
        """The cluster that commands go to from here."""

    def records(self, links: Sequence[str]) -> list[str]:
        """Those of the links that have a job each, on record."""

    def adopt(self, run: Run) -> list[str]:
        """Find the jobs whose submitter died before it could record them; the links of existing jobs."""

    def submit(self, run: Run, job: Job, after: str | None = None) -> dict[str, str]:
        """Submit what has no job yet; ids by what they are called.

        Args:
            after: The job whose end the training has to wait for, where jobs queue.
        """

    def sweeps(self, new: list[Element], answered: list[Element]) -> list[Sweep]:
        """How new elements are divided into submissions; ``answered``: those that need no model any more."""

    def submit_sweep(self, run: Run, job: Job, link: str) -> str:
        """Submit a link of evaluations; its job in words."""

    def life(self, run: Run, job: Submission, known: Known) -> Life:
        """Whether a job is alive, given what Slurm says of it."""

    def alive(self, run: Run) -> dict[str, str] | None:
        """What of a run is alive, by id, with the reason in words; None if that is unknown."""

    def called(self, run: Run, ids: Sequence[str]) -> list[str]:
        """Jobs in the user's words."""

    def end(self, run: Run, live: Mapping[str, str]) -> list[str] | None:
        """End what is alive, and wait for it.

        Returns:
            What could not be ended; None: it had come to its own end before.
        """

    def check_changes(self, run: Run, changes: Mapping[str, Any], job: Job) -> None:
        """Raise UserError if no job can have these options there."""

    def check(self, requests: Sequence[JobRequest], remedy: str, environ: Mapping[str, str] | None = None) -> None:
        """Raise UserError where a request would be refused; name what of ``environ`` the jobs do not take over."""

    def short_job(self, run: Run, job: Job, command: Sequence[str], log: Path,
                  minutes: int) -> AbstractContextManager[ShortJob]:
        """A command as a job of one rank of ``job``, cancelled at the context's end; UserError where it is refused.

        Args:
            log: What it prints; in a folder that the nodes see.
        """

    def scripts(self, requests: Sequence[JobRequest]) -> list[str]:
        """What would be submitted, for the eye."""
