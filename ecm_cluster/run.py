"""A run directory: every path in it by name, and what can be read from it.

Nothing else in the package spells the name of a file in a run directory. The directory is the only truth: it lies
on a file system that all nodes share, and each verb and each rank works from it alone.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from . import files
from . import ledger as ledgers
from .errors import UserError


class Work:
    """A folder, not yet made perhaps, in which attempts do something until it is done: a run, or one evaluation."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    @property
    def attempts_dir(self) -> Path:
        return self.path / "attempts"

    @property
    def ledger_dir(self) -> Path:
        return self.path / "ledger"

    @property
    def logs_dir(self) -> Path:
        return self.path / "logs"

    def attempt_file(self, number: int) -> Path:
        """Made by exclusive creation; its existence fences every lower number."""
        return self.attempts_dir / f"{number:04d}.json"

    def rendezvous_file(self, number: int) -> Path:
        """Address of the attempt's store, written by its rank 0."""
        return self.attempts_dir / f"{number:04d}.rendezvous.json"

    def abort_file(self, number: int) -> Path:
        """Present once a rank of the attempt has failed: the others end."""
        return self.attempts_dir / f"{number:04d}.abort.json"

    def decision_file(self, number: int) -> Path:
        """What rank 0 decided after an agreed stop, for the other ranks."""
        return self.attempts_dir / f"{number:04d}.decision.json"

    def heartbeat_file(self, number: int, rank: int) -> Path:
        """Rewritten by a rank's trainer as it goes; progress for the supervisor and for ``status``."""
        return self.attempts_dir / f"{number:04d}.rank{rank:03d}.heartbeat.json"

    def stacks_file(self, number: int, rank: int) -> Path:
        """Where a rank's threads stood when its attempt was given up as hung; empty or absent otherwise."""
        return self.logs_dir / f"attempt{number:04d}.rank{rank:03d}.stacks.txt"

    def rank_log(self, rank: int) -> Path:
        """What a rank's worker process prints, appended over all attempts."""
        return self.logs_dir / f"rank{rank:03d}.log"

    def attempts(self) -> list[int]:
        """Numbers of all attempts so far, ascending."""
        found = [p.stem for p in self.attempts_dir.glob("[0-9]*.json")]
        return sorted(int(stem) for stem in found if stem.isdigit())

    def newest_attempt(self) -> int:
        """Number of the newest attempt, 0 if there was none."""
        return max(self.attempts(), default=0)

    def read_attempt(self, number: int) -> dict[str, Any]:
        return files.read_json(self.attempt_file(number))

    def ledger(self, attempt: int, writer: str) -> ledgers.Ledger:
        return ledgers.Ledger(self.ledger_dir, attempt, writer)

    def events(self) -> list[ledgers.Event]:
        return ledgers.read(self.ledger_dir)

    def heartbeat(self, attempt: int, rank: int = 0) -> dict[str, Any] | None:
        """The newest progress of one rank: phase, iteration, loss, …; None before the first."""
        try:
            return files.read_json(self.heartbeat_file(attempt, rank))
        except (FileNotFoundError, ValueError):
            return None


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
    def run_file(self) -> Path:
        return self.path / "run.json"

    @property
    def config_file(self) -> Path:
        """The resolved mmdet config, as it is trained."""
        return self.path / "config.py"

    @property
    def code_dir(self) -> Path:
        """The code that attempts import: the submission's, or what a resume has put in its place."""
        return self.code_folder(self.overrides().get("code", {}).get("number", 1))

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

    def evaluation(self, key: str) -> Evaluation:
        return Evaluation(self.evaluations_dir / key)

    def evaluations(self) -> list[Evaluation]:
        if not self.evaluations_dir.is_dir():
            return []
        return [Evaluation(p) for p in sorted(self.evaluations_dir.iterdir()) if p.is_dir()]

    @cached_property
    def spec(self) -> dict[str, Any]:
        """run.json: frozen at submission.

        Raises:
            UserError: The directory is not a run.
        """
        try:
            record = files.read_json(self.run_file)
            return {**record, "job": record["job"], "cluster": record["cluster"]}
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{self.path} is not a run directory: it has no {self.run_file.name}; "
                            "give the folder that `submit` printed") from None
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f"{self.run_file} is no record of a run that can be read ({error})") from None

    def completion(self) -> dict[str, Any] | None:
        """The completion mark, if the newest attempt wrote it: a fenced attempt's mark does not count."""
        try:
            return files.read_json(self.complete_file(self.newest_attempt()))
        except FileNotFoundError:
            return None

    def overrides(self) -> dict[str, Any]:
        """What resumes have changed: ``job`` (options as they are now), ``from`` (see ``chain.resume_point``),
        ``virtual_ranks`` (of a rescaled run), ``code`` (record of a newer snapshot, ``number`` of its folder)."""
        try:
            return files.read_json(self.overrides_file)
        except FileNotFoundError:
            return {}

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


class Evaluation(Work):
    """One checkpoint scored under one set of settings: done once, whoever asks."""

    @property
    def key(self) -> str:
        return self.path.name

    @property
    def detections_dir(self) -> Path:
        return self.path / "detections"

    def shard_file(self, rank: int, world_size: int) -> Path:
        return self.detections_dir / f"{rank:03d}-of-{world_size:03d}.npz"

    @property
    def metrics_file(self) -> Path:
        """Written last: its presence means that the evaluation is done."""
        return self.path / "metrics.json"

    @property
    def table_file(self) -> Path:
        return self.path / "metrics.txt"

    @property
    def per_class_file(self) -> Path:
        return self.path / "per_class.txt"

    def metrics(self) -> dict[str, Any] | None:
        try:
            return files.read_json(self.metrics_file)
        except FileNotFoundError:
            return None


def write_heartbeat(work: Work, attempt: int, rank: int, **progress: Any) -> None:
    """Tell the supervisor and ``status`` how far a rank is; cheap, not durable, whole or not at all."""
    target = work.heartbeat_file(attempt, rank)
    tmp = target.with_suffix(".tmp")
    # no fsync: a heartbeat lost in a power cut is no loss, and this runs inside the training loop
    tmp.write_text(json.dumps({"time": time.time(), **progress}))
    tmp.replace(target)
