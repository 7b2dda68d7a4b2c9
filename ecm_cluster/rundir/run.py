"""A run: what can be read from its directory, and who owns it."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base import files, fileserver, owners, reading
from ..base.errors import UserError
from ..base.reading import Unreadable
from ..job.job import Job
from . import records
from .paths import CHECKPOINT, LINK, RunFolder
from .spec import LinkRecord, Overrides, RunSpec, evaluation_job, recorded_job
from .work import Evaluation, Work

__all__ = ["Evaluation", "Run", "Submission", "Work"]


@dataclass(frozen=True)
class Submission:
    """One job of a step of the chain, the present one or an earlier one, as recorded where it was submitted.

    Attributes:
        token: Passed to Slurm as the job's comment; finds a job whose id was never recorded.
        job_id: None until sbatch has answered.
        cluster: ``slurm`` or ``local``.
        cluster_name: Slurm's, where it was known.
        refused: Slurm reported that there is no job with this token.
    """

    link: str
    token: str
    job_id: str | None
    cluster: str
    user: str | None
    cluster_name: str | None
    present: bool
    refused: bool = False


class Run(RunFolder):
    """A training run with its evaluations."""

    _spec: RunSpec | None = None

    @property
    def is_own(self) -> bool:
        """Whether it belongs to the caller (for root: to root). Another user's run is only shown.

        Nothing acts on the jobs, processes or files that another user's run names, and nothing is written to it.
        """
        try:
            return owners.of(self.path, self.run_file.name) == os.geteuid()
        except OSError:
            return False  # nothing could be done with it

    def require_own(self, verb: str) -> None:
        """Refuse to act on another user's run.

        Args:
            verb: What was asked for, in the infinitive, for the message.

        Raises:
            UserError: It belongs to another user, or cannot be read.
        """
        try:
            uid = owners.of(self.path, self.run_file.name)
        except OSError as error:
            raise UserError(f"RUN: {error.filename}: {error.strerror}") from None
        if uid != os.geteuid():
            raise UserError(f"RUN: {self.path} belongs to {owners.name_of(uid)}; only its owner can {verb} it")

    @property
    def code_dir(self) -> Path:
        """The code that attempts import: that of the submission, or of the last ``resume --code``."""
        return self.code_folder(self.overrides().code.get("number", 1))

    def mark_cancelled(self, by: str) -> None:
        """Write the cancel mark; its random id distinguishes it from earlier ones, as clocks may not."""
        files.write_json(self.cancel_file, {"id": secrets.token_hex(4), "time": round(time.time(), 3), "by": by})

    def cancel_mark(self) -> dict[str, Any] | None:
        """The cancel mark; None if the user has not cancelled the run, or has resumed it since."""
        try:
            return records.read(self.cancel_file, records.CANCELLED)
        except FileNotFoundError:
            return None
        except Unreadable as error:
            self.note(error)
            return {}  # damaged, but it exists

    def cancelled(self, link: str = "train") -> bool:
        """Whether the user has cancelled a link; a sweep that was submitted later is not affected."""
        mark = self.cancel_mark()
        record = self.link_record(link) if mark is not None and link.startswith("sweep") else None
        return mark is not None and (record is None or record.after_cancel != mark)

    def evaluation(self, key: str) -> Evaluation:
        found = Evaluation(self.evaluations_dir / key)
        found.note = self.note  # type: ignore[method-assign]
        return found

    def evaluations(self) -> list[Evaluation]:
        return [self.evaluation(name) for name in fileserver.names_in(self.evaluations_dir, folders=True)]

    @property
    def spec(self) -> RunSpec:
        """run.json, written once at submission.

        Raises:
            UserError: The directory is not a run.
        """
        if self._spec is None:  # no cached_property: before Python 3.12 all instances share its lock
            self._spec = self._read_spec()
        return self._spec

    def _read_spec(self) -> RunSpec:
        try:
            return RunSpec.from_dict(records.read(self.run_file, records.RUN))
        except FileNotFoundError:
            raise UserError(f"{self.path} is not a run directory: it has no {self.run_file.name}; "
                            "use the directory that `submit` printed") from None
        except (UserError, OSError) as error:
            if os.path.exists(self.path) and not os.path.isdir(self.path):
                raise UserError(f"{self.path} is not a directory; use the one that `submit` printed") from None
            why = str(error).replace(f"{self.run_file}: ", "")
            raise UserError(f"{self.run_file} is not a readable record of a run ({why}){self._of_another()}") from None

    def _of_another(self) -> str:
        with contextlib.suppress(OSError):
            uid = owners.of(self.path, self.run_file.name)
            return "" if uid == os.geteuid() else f": it belongs to {owners.name_of(uid)}"
        return ""

    def job(self, link: str = "train") -> Job:
        """The current job of a link: that of the submission, with the changes of all resumes.

        A link of evaluations that was submitted with its own job keeps that one.
        """
        now, changes = self.spec.job, self.overrides().job
        if changes:
            now = recorded_job(changes, now)
        if link == "train":
            return now
        record = self.link_record(link)
        return record.job if record and record.job else evaluation_job(now)

    def threads(self, link: str) -> int:
        """CPU threads of each rank of a link: the run's, unless the link was submitted with its own job."""
        record = self.link_record(link)
        return record.job.threads_per_rank if record and record.job else self.spec.threads

    def link_record(self, link: str) -> LinkRecord | None:
        """The record of a link of evaluations, if there is one."""
        try:
            if not LINK.fullmatch(link):
                return None
            return LinkRecord.from_dict(records.read(self.elements_file(link), records.ELEMENTS), self.job)
        except FileNotFoundError:
            return None
        except UserError as error:
            raise _not_readable(self.elements_file(link), "record of evaluations", error) from None

    def completion(self) -> str | None:
        """Name of the last checkpoint if the newest attempt wrote the completion mark; None if it is not complete.

        A damaged mark still means that the training is complete; its content is then taken from the ledger.
        """
        newest = self.newest_attempt()
        path = self.complete_file(newest)
        try:
            return records.read(path, records.COMPLETE)["checkpoint"]
        except FileNotFoundError:
            return None
        except Unreadable as error:
            recorded = [e["checkpoint"] for e in self.events(newest) if e.kind == "complete"]
            if not recorded or not reading.fits(recorded[-1], records.CHECKPOINT):
                raise _not_readable(path, "completion mark", error) from None
            self.note(error)
            return recorded[-1]

    def resumed_after(self, attempt: int) -> int:
        """The iteration of the checkpoint from which an attempt resumed; 0 if it started from the beginning."""
        found = CHECKPOINT.fullmatch(self.read_attempt(attempt).get("from") or "")
        return int(found[1]) if found else 0

    def overrides(self) -> Overrides:
        """What resumes have changed; read from disk at every call."""
        try:
            return Overrides.from_dict(records.read(self.overrides_file, records.OVERRIDES))
        except FileNotFoundError:
            return Overrides()
        except UserError as error:
            raise _not_readable(self.overrides_file, "record of overrides", error) from None

    def submission(self, link: str) -> dict[str, Any]:
        """The submission record of a link (:data:`records.SUBMISSION`); empty if there is none.

        If it is damaged, the ledger still has what matters: the jobs with their tokens.

        Raises:
            UserError: It is damaged, and the ledger does not have them either.
        """
        path = self.submission_file(link)
        try:
            return records.read(path, records.SUBMISSION)
        except Unreadable as error:
            rows = {e["job_id"]: {"token": e.get("token"), "job_id": e["job_id"]} for e in self.events(0, "submit")
                    if e.kind == "submitted" and e["stage"] == link}
            record = {"cluster": self.spec.cluster, "submitted": None, "user": None, "cluster_name": None,
                      **(list(rows.values()) or [{}])[-1], "former": list(rows.values())[:-1]}
            if not reading.fits(record, records.SUBMISSION):
                raise _not_readable(path, "record of a submission", error) from None
            self.note(error)
            return record
        except OSError:  # none, or being replaced
            return {}

    def submissions_of(self, link: str) -> list[Submission]:
        """Every job that a step has had, oldest first, with the present one last."""
        record = self.submission(link)
        rows = [*record.get("former", []), *([record] if record.get("token") else [])]
        return [Submission(link, row["token"], row.get("job_id"), record.get("cluster", "slurm"), row.get("user"),
                           row.get("cluster_name"), row is record, bool(row.get("refused"))) for row in rows]

    def submissions(self) -> list[Submission]:
        """The present jobs of the chain, training first; a step whose job was refused meanwhile has none."""
        names = fileserver.names_in(self.submission_file("x").parent)
        links = [name[:-5] for name in names if name.endswith(".json") and LINK.fullmatch(name[:-5])]
        return [job for link in sorted(links, key=lambda s: (s != "train", s)) for job in self.submissions_of(link)
                if job.present]


def _not_readable(path: Path, what: str, error: UserError) -> UserError:
    why = str(error).replace(f"{path}: ", "")
    return UserError(f"{path}: not a readable {what} ({why}); restore the file from a backup")
