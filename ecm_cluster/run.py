"""A run directory: every path in it by name, and what can be read from it.

Nothing else in the package, but ``work.py``, spells the name of a file in a run directory. The directory is the only
truth: it lies on a file system that all nodes share, and each verb and each rank works from it alone.
"""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from . import files, owners
from .errors import UserError
from .job import Job
from .spec import Overrides, RunSpec, StageRecord, evaluation_job, recorded_job
from .work import Evaluation, Work

__all__ = ["Evaluation", "Run", "Submission", "Work"]


@dataclass(frozen=True)
class Submission:
    """One job of the chain as recorded on the login node.

    Attributes:
        stage, cluster: ``train`` or ``evaluate``; ``slurm`` or ``local``.
        token: Passed to Slurm as the job's comment; finds a job whose id was never recorded.
        job_id: None between the token and sbatch's answer.
    """

    stage: str
    token: str
    job_id: str | None
    cluster: str


class Run(Work):
    """A training run and all that hangs on it."""

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def is_own(self) -> bool:
        """Whether it is the caller's own; root's are those of root. Of another's run everything is data, to be shown.

        Nothing acts on what a foreign run names (jobs, processes, files), and nothing is written to it.
        """
        try:
            return owners.of(self.path, self.run_file.name) == os.geteuid()
        except OSError:
            return False  # nothing can be done with it

    def require_own(self, verb: str) -> None:
        """Refuse to act on another user's run.

        Args:
            verb: What the owner can do, in the infinitive.

        Raises:
            UserError: It is another's, or cannot be looked into.
        """
        try:
            uid = owners.of(self.path, self.run_file.name)
        except OSError as error:
            raise UserError(f"RUN: {error.filename}: {error.strerror}") from None
        if uid != os.geteuid():
            raise UserError(f"RUN: {self.path} belongs to {owners.name_of(uid)}; only its owner can {verb} it")

    @property
    def run_file(self) -> Path:
        return self.path / "run.json"

    @property
    def submit_lock(self) -> Path:
        """Held by the submission that makes the run; gone when it is made."""
        return self.path / ".submitting"

    @property
    def lock_file(self) -> Path:
        """Held by who submits or cancels jobs of the run; its owner's alone. Runs of the former version lack it."""
        return self.path / "run.lock"

    @property
    def config_file(self) -> Path:
        """The resolved mmdet config, as it is trained."""
        return self.path / "config.py"

    @property
    def env_file(self) -> Path:
        """The values of the job's ``env``, which may be secrets: shell lines, for the owner alone."""
        return self.path / "env.sh"

    @property
    def code_dir(self) -> Path:
        """The code that attempts import: the submission's, or what a resume has put in its place."""
        return self.code_folder(self.overrides().code.get("number", 1))

    def code_folder(self, number: int) -> Path:
        """Each code that the run has had keeps its folder: 1 is the submission's."""
        return self.path / ("code" if number == 1 else f"code-{number}")

    @property
    def checkpoints_dir(self) -> Path:
        return self.path / "checkpoints"

    @property
    def quarantine_dir(self) -> Path:
        """Checkpoints that do not match their manifest."""
        return self.checkpoints_dir / "quarantine"

    def complete_file(self, attempt: int) -> Path:
        """The completion mark, written last; each attempt's own, so that none can replace a later one's."""
        return self.attempts_dir / f"{attempt:04d}.complete.json"

    @property
    def overrides_file(self) -> Path:
        """What resumes have changed since the submission."""
        return self.path / "overrides.json"

    @property
    def cancel_file(self) -> Path:
        """Present once the user has cancelled the run: nothing starts it again by itself."""
        return self.path / "cancelled.json"

    def mark_cancelled(self, by: str) -> None:
        """Write the cancel mark; each is another one, whatever the clock says."""
        files.write_json(self.cancel_file, {"id": secrets.token_hex(4), "time": round(time.time(), 3), "by": by})

    def cancel_mark(self) -> dict[str, Any] | None:
        """The cancel mark; None: the user has not cancelled the run, or has resumed it."""
        try:
            return files.read_json(self.cancel_file)
        except FileNotFoundError:
            return None
        except ValueError:
            return {}  # damaged, but there

    def cancelled(self, stage: str = "train") -> bool:
        """Whether the user has cancelled a stage; a sweep that was submitted after that is not meant."""
        mark = self.cancel_mark()
        record = self.stage(stage) if mark is not None and stage.startswith("sweep") else None
        return mark is not None and (record is None or record.after_cancel != mark)

    @property
    def train_log(self) -> Path:
        """The readable log of the training, over all attempts."""
        return self.logs_dir / "train.log"

    @staticmethod
    def log_stamp(attempt: int) -> str:
        """What mmcv's logger hooks put before ``.log.json``."""
        return f"attempt{attempt:04d}"

    def json_log(self, attempt: int) -> Path:
        """What mmcv's text logger writes for programs to read, a line for each log line of one attempt."""
        return self.logs_dir / f"{self.log_stamp(attempt)}.log.json"

    @property
    def starts_dir(self) -> Path:
        """What the batch shell records of each start of each job, ``JOB.RESTART.json``."""
        return self.path / "starts"

    @property
    def submitit_dir(self) -> Path:
        """submitit's folder: scripts, pickles, what each task of each job prints."""
        return self.path / "submitit"

    @property
    def batch_log(self) -> Path:
        """One line for each end of a batch script that could not be told to the ledger."""
        return self.logs_dir / "batch.log"

    @property
    def local_log(self) -> Path:
        return self.logs_dir / "local.log"

    @property
    def evaluations_dir(self) -> Path:
        return self.path / "evaluations"

    def submission_file(self, stage: str) -> Path:
        return self.path / "submissions" / f"{stage}.json"

    def task_pickle(self, stage: str) -> Path:
        """The task as submitit's pickle, written before sbatch, so that a job can start without its submitter."""
        return self.path / "submissions" / f"{stage}.pkl"

    def checkpoint_file(self, iteration: int, attempt: int) -> Path:
        """The attempt is part of the name, so that two writers never share a file."""
        return self.checkpoints_dir / f"iter_{iteration:07d}-a{attempt:04d}.pth"

    @staticmethod
    def manifest_of(checkpoint: Path) -> Path:
        return checkpoint.with_suffix(".json")

    def elements_file(self, stage: str) -> Path:
        """What each element of a stage's array scores."""
        return self.evaluations_dir / f"{stage}.json"

    def stages_with_elements(self) -> list[str]:
        return sorted(path.stem for path in self.evaluations_dir.glob("*.json"))

    @property
    def results_file(self) -> Path:
        """All that was scored, as CSV."""
        return self.evaluations_dir / "results.csv"

    def evaluation(self, key: str) -> Evaluation:
        return Evaluation(self.evaluations_dir / key)

    def evaluations(self) -> list[Evaluation]:
        if not self.evaluations_dir.is_dir():
            return []
        return [Evaluation(p) for p in sorted(self.evaluations_dir.iterdir()) if p.is_dir()]

    @cached_property
    def spec(self) -> RunSpec:
        """run.json: frozen at submission.

        Raises:
            UserError: The directory is not a run.
        """
        try:
            return RunSpec.from_dict(files.read_json(self.run_file))
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{self.path} is not a run directory: it has no {self.run_file.name}; "
                            "give the folder that `submit` printed") from None
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f"{self.run_file} is not a readable record of a run ({error})") from None

    def job(self, stage: str = "train") -> Job:
        """The job of a stage as it is now: the submission's with what resumes have changed since.

        A stage of evaluations that was submitted with a job of its own keeps that one.
        """
        now, changes = self.spec.job, self.overrides().job
        if changes:
            now = recorded_job(changes, now)
        if stage == "train":
            return now
        record = self.stage(stage)
        return record.job if record and record.job else evaluation_job(now)

    def threads(self, stage: str) -> int:
        """CPU threads of each rank of a stage: the run's, but where a stage of evaluations has a job of its own."""
        record = self.stage(stage)
        return record.job.threads_per_rank if record and record.job else self.spec.threads

    def stage(self, stage: str) -> StageRecord | None:
        """What is on record of a stage of evaluations, if anything."""
        try:
            return StageRecord.from_dict(files.read_json(self.elements_file(stage)), self.job)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (LookupError, TypeError, ValueError) as error:
            raise UserError(f"{self.elements_file(stage)}: not a readable record of evaluations ({error})") from None

    def completion(self) -> str | None:
        """Name of the last checkpoint, if the newest attempt wrote the completion mark; None: not complete."""
        path = self.complete_file(self.newest_attempt())
        try:
            return str(files.read_json(path)["checkpoint"])
        except FileNotFoundError:
            return None
        except (LookupError, TypeError, ValueError) as error:
            raise UserError(f"{path}: not a readable completion mark ({error})") from None

    def overrides(self) -> Overrides:
        """What resumes have changed, read anew at each call."""
        try:
            return Overrides.from_dict(files.read_json(self.overrides_file))
        except FileNotFoundError:
            return Overrides()
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.overrides_file}: not a readable record of what was resumed ({error})") from None

    def submissions(self) -> list[Submission]:
        """Jobs of the chain, training first."""
        found = []
        for path in self.submission_file("x").parent.glob("*.json"):
            try:
                record = files.read_json(path)
                found.append(Submission(path.stem, record["token"], record.get("job_id"), record["cluster"]))
            except (OSError, ValueError, LookupError, TypeError, AttributeError):
                continue  # refused meanwhile, or none of ours: these files are written whole
        return sorted(found, key=lambda s: s.stage != "train")
