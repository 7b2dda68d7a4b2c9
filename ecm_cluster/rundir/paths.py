"""Every path in a run directory by name.

Only this module and ``work.py`` spell the names of files in a run directory. The directory is the single source of
truth: it is on a file system that all nodes share, and every verb and every rank works from it alone.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..base import fileserver
from ..base.files import TMP_MARK
from .work import Work

CHECKPOINT = re.compile(r"iter_([0-9]{1,12})-a([0-9]{1,9})\.pth")  # a checkpoint's name: iteration and attempt
LINK = re.compile("[a-z]{1,32}[0-9]{0,9}")  # the name of a link: train, evaluate, sweep001


def notices_due_dir(runs_dir: Path) -> Path:
    """The caller's directory with an entry for each of their runs about which messages may become due."""
    return runs_dir / f".notices-{os.geteuid()}"


class RunFolder(Work):
    """The layout of a run directory."""

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def run_file(self) -> Path:
        return self.path / "run.json"

    @property
    def submit_lock(self) -> Path:
        """Locked by the submission that creates the run; removed when the run exists."""
        return self.path / ".submitting"

    @property
    def lock_file(self) -> Path:
        """Locked while jobs of the run are submitted or cancelled; owner only. Missing in runs of earlier versions."""
        return self.path / "run.lock"

    @property
    def config_file(self) -> Path:
        """The resolved mmdet config that is trained."""
        return self.path / "config.py"

    @property
    def env_file(self) -> Path:
        """The values of the job's ``env``, which may be secrets: shell lines, for the owner only."""
        return self.path / "env.sh"

    @property
    def notify_file(self) -> Path:
        """The URLs of the job's ``notify``, which hold secrets, one a line: for the owner only."""
        return self.path / "notify.urls"

    def code_folder(self, number: int) -> Path:
        """Every version of the code that the run has had keeps its directory; 1 is that of the submission."""
        return self.path / ("code" if number == 1 else f"code-{number}")

    def code_folders(self) -> list[Path]:
        """The directories of all versions of the code."""
        found = [path for path in self.path.glob("code*") if re.fullmatch(r"code(-[0-9]{1,9})?", path.name)]
        return sorted(path for path in found if path.is_dir() and not path.is_symlink())

    @property
    def checkpoints_dir(self) -> Path:
        return self.path / "checkpoints"

    @property
    def quarantine_dir(self) -> Path:
        """For checkpoints that do not match their manifest."""
        return self.checkpoints_dir / "quarantine"

    def complete_file(self, attempt: int) -> Path:
        """The completion mark, written last; one per attempt, so that none can replace that of a later attempt."""
        return self.attempts_dir / f"{attempt:04d}.complete.json"

    @property
    def overrides_file(self) -> Path:
        """What resumes have changed since the submission."""
        return self.path / "overrides.json"

    @property
    def cancel_file(self) -> Path:
        """Exists once the user has cancelled the run: nothing restarts it automatically."""
        return self.path / "cancelled.json"

    @property
    def train_log(self) -> Path:
        """The readable log of the training, over all attempts."""
        return self.logs_dir / "train.log"

    @staticmethod
    def log_stamp(attempt: int) -> str:
        """The stem of mmcv's JSON log, in front of ``.log.json``."""
        return f"attempt{attempt:04d}"

    def json_log(self, attempt: int) -> Path:
        """The JSON log of one attempt, written by mmcv's text logger."""
        return self.logs_dir / f"{self.log_stamp(attempt)}.log.json"

    @property
    def starts_dir(self) -> Path:
        """What the batch script records about each start of each job, ``JOB.RESTART.json``."""
        return self.path / "starts"

    @property
    def submitit_dir(self) -> Path:
        """submitit's directory: scripts, pickles, the output of each task of each job."""
        return self.path / "submitit"

    @property
    def batch_log(self) -> Path:
        """One line for each end of a batch script that could not be written to the ledger."""
        return self.logs_dir / "batch.log"

    @property
    def local_log(self) -> Path:
        return self.logs_dir / "local.log"

    @property
    def afterwards_log(self) -> Path:
        """The output of what is done once a piece of work has ended, see ``node/supervise/afterwards.py``."""
        return self.logs_dir / "afterwards.log"

    @property
    def evaluations_dir(self) -> Path:
        return self.path / "evaluations"

    def submission_file(self, link: str) -> Path:
        return self.path / "submissions" / f"{link}.json"

    def task_pickle(self, link: str) -> Path:
        """The task as submitit's pickle, written before sbatch is called: the job may start before sbatch returns."""
        return self.path / "submissions" / f"{link}.pkl"

    def checkpoint_file(self, iteration: int, attempt: int) -> Path:
        """The attempt is part of the name, so two writers never share a file."""
        return self.checkpoints_dir / f"iter_{iteration:07d}-a{attempt:04d}.pth"

    @staticmethod
    def manifest_of(checkpoint: Path) -> Path:
        return checkpoint.with_suffix(".json")

    def elements_file(self, link: str) -> Path:
        """What each element of a link's job array scores."""
        return self.evaluations_dir / f"{link}.json"

    def links_with_elements(self) -> list[str]:
        names = fileserver.names_in(self.evaluations_dir)
        return [name[:-5] for name in names if name.endswith(".json") and LINK.fullmatch(name[:-5])]

    @property
    def trackers_dir(self) -> Path:
        """What the trackers wrote, a directory each: ``tensorboard``, ``wandb``."""
        return self.path / "trackers"

    def is_private(self, path: Path) -> bool:
        """Whether a file holds secrets, or means something on this machine alone: locks, pickles, addresses."""
        return (path in (self.env_file, self.notify_file, self.lock_file, self.submit_lock)
                or self.notices_dir in path.parents or TMP_MARK in path.name
                or path.name.endswith((".pkl", ".rendezvous.json", ".contact.json", "-lock")))

    def tracker_dir(self, name: str) -> Path:
        return self.trackers_dir / name

    def tracker_lock(self, name: str) -> Path:
        """Locked by the process that feeds a tracker."""
        return self.trackers_dir / f".{name}-lock"

    def tracker_mark(self, name: str) -> Path:
        """Exists once everything is in a tracker, and its files are closed."""
        return self.trackers_dir / f"{name}.json"

    def tracker_log(self, name: str) -> Path:
        """The output of the process that feeds a tracker during the training."""
        return self.logs_dir / f"tracker-{name}.log"

    @property
    def report_file(self) -> Path:
        """The page about the run."""
        return self.path / "report.html"

    @property
    def summary_file(self) -> Path:
        """What ``status`` shows of the run, folded, for as long as nothing has changed since."""
        return self.path / "summary.json"

    @property
    def environment_file(self) -> Path:
        """What was installed at submission."""
        return self.path / "environment.json"

    def environment_of(self, attempt: int) -> Path:
        """What was installed where an attempt trained, if that was not what it was at submission."""
        return self.attempts_dir / f"{attempt:04d}.environment.json"

    @property
    def notices_dir(self) -> Path:
        """A file for each message about the run and each of its URLs: sent, or why not."""
        return self.path / "notices"

    def notice_file(self, name: str, url: int) -> Path:
        return self.notices_dir / f"{name}.{url}.json"

    @property
    def notices_lock(self) -> Path:
        """Locked by the process that sends messages about the run; owner only."""
        return self.notices_dir / "sending.lock"

    @property
    def notices_job_log(self) -> Path:
        """The output of the short job that sends messages; its script is beside it."""
        return self.notices_dir / "job.log"

    @property
    def notices_log(self) -> Path:
        """A line for each message that was sent, or could not be."""
        return self.logs_dir / "notices.log"

    @property
    def notices_due(self) -> Path:
        """Beside the run, in a directory of its owner: exists while messages about the run may become due."""
        return notices_due_dir(self.path.parent) / self.name

    @property
    def results_file(self) -> Path:
        """All results, as CSV."""
        return self.evaluations_dir / "results.csv"
