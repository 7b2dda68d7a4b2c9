"""Which log is meant: the training's, a rank's, an evaluation's, or what the jobs themselves have printed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from ..attempts import endings
from ..base.errors import UserError
from ..chain import chain, evaluations
from ..job import eval_settings
from ..reporting.tolerant import TolerantRun
from ..rundir import checkpoints
from ..rundir.run import Evaluation, Run, Work
from .log_files import OF_RANK, OF_TRAINING, Part, of_attempt

RANK_LOG = re.compile(r"rank([0-9]{3,9})\.log")
LAST = "last"


class Choice:
    """A log as the user asks for it.

    Args:
        evaluation: See :func:`evaluation_of`; None: the training.
        attempt: A number, or ``last``; None: all attempts.
        rank: None: the readable log where there is one, else rank 0's output.
        of_job: The output of the jobs instead.

    Raises:
        UserError: There is no such evaluation, attempt or rank.
    """

    def __init__(self, run: TolerantRun, evaluation: str | None = None, attempt: str | None = None,
                 rank: int | None = None, of_job: bool = False) -> None:
        self.run, self.rank, self.of_job = run, rank, of_job
        self.work: Work = run if evaluation is None else evaluation_of(run, evaluation)
        self.attempt = None if attempt is None else _number(self.work, attempt)
        self.readable = self.is_of_training and rank is None and not of_job
        known = ranks(self.work)
        if rank is not None and known and rank not in known and not of_job:
            raise UserError(f"rank: there is no output of rank {rank}; expected "
                            + (f"0 to {known[-1]}" if len(known) > 1 else "0"))

    @property
    def is_of_training(self) -> bool:
        return self.work is self.run

    @property
    def words(self) -> str:
        """What was asked for, as " of attempt 2, rank 1"; empty for the log of the training."""
        asked = [f"evaluation {self.work.path.name}" if not self.is_of_training else "",
                 f"attempt {self.attempt}" if self.attempt else "", "" if self.rank is None else f"rank {self.rank}"]
        return f" of {', '.join(filter(None, asked))}" if any(asked) else ""

    def is_over(self) -> bool:
        """Whether nothing can be added: a later attempt has begun."""
        return self.attempt is not None and self.attempt != self.work.newest_attempt()

    def is_scored(self) -> bool:
        """Whether the evaluation is done."""
        return bool(self.work.attempts()) and endings.is_done(self.work)

    def path(self) -> Path | None:
        """The log that grows; None: there is none yet, and its name is unknown."""
        if self.of_job:
            return next((part.path for part in reversed(self._of_jobs())), None)
        return self.run.train_log if self.readable else self.work.rank_log(self.rank or 0)

    def parts(self, follow: bool = False) -> tuple[str, list[Part]]:
        """What there is of it, and a note where something else stands in; with ``follow`` nothing else does."""
        for note, parts in self._candidates():
            there = [part for part in parts if part.exists()]
            if there or follow:
                return note if there else "", there
        return "", []

    def _candidates(self) -> Iterator[tuple[str, list[Part]]]:
        of = f" of attempt {self.attempt}" if self.attempt else ""
        if self.readable:
            yield "", self._of_attempt(self.run.train_log, OF_TRAINING)
        rank = self.rank or 0
        if not self.of_job:
            numbers = self.work.attempts() if self.attempt is None else [self.attempt]
            stacks = [self.work.stacks_file(number, rank) for number in numbers]
            yield (f"there is no training log{of}; this is the output of rank 0" if self.readable else "",
                   [*self._of_attempt(self.work.rank_log(rank), OF_RANK), *map(Part, stacks)])
        yield "" if self.of_job else "no rank has printed anything; this is the output of the job", self._of_jobs()

    def _of_attempt(self, path: Path, mark: re.Pattern[bytes]) -> list[Part]:
        return [Part(path)] if self.attempt is None else of_attempt(path, mark, self.attempt)

    def _of_jobs(self) -> list[Part]:
        """The local driver's log, and the output of the tasks of the work's jobs, oldest first."""
        ids = self._job_ids()
        found = []
        for path in self.run.submitit_dir.glob(f"*_{self.rank or 0}_log.out"):
            with contextlib.suppress(OSError):
                if ids is None or path.name.rpartition(f"_{self.rank or 0}_log.out")[0] in ids:
                    found.append((path.lstat().st_mtime, path))
        return [Part(path) for path in ([self.run.local_log] if ids is None else []) + [p for _, p in sorted(found)]]

    def _job_ids(self) -> set[str] | None:
        """Of the attempt or the evaluation; None: any of the run."""
        if self.is_of_training and self.attempt is None:
            return None
        numbers = self.work.attempts() if self.attempt is None else [self.attempt]
        return {str(self.work.read_attempt(number).get("job_id")) for number in numbers}

    def hint(self) -> str | None:
        """That the newest attempt is not in the readable log; None: it is, or another log was asked for."""
        newest = self.work.newest_attempt()
        if not self.readable or self.attempt is not None or not newest:
            return None
        if of_attempt(self.run.train_log, OF_TRAINING, newest) or not Part(self.run.train_log).exists():
            return None
        return f"attempt {newest} has not written to it; add `--attempt {newest}` for the output of its rank 0"


def ranks(work: Work) -> list[int]:
    """The ranks that have printed anything, ascending."""
    return sorted(int(found[1]) for path in work.logs_dir.glob("rank*.log") if (found := RANK_LOG.fullmatch(path.name)))


def _number(work: Work, text: str) -> int:
    numbers = work.attempts()
    if not numbers:
        raise UserError("attempt: no attempt has begun; leave --attempt out")
    if text == LAST:
        return numbers[-1]
    if not text.isdigit() or len(text) > 9 or int(text) not in numbers:
        several = f"{numbers[0]} to {numbers[-1]}, or last" if len(numbers) > 1 else f"{numbers[0]}"
        raise UserError(f"attempt: there is no attempt {text}; expected {several}")
    return int(text)


def evaluation_of(run: Run, text: str) -> Evaluation:
    """The evaluation that is meant by its key or a part of it, its checkpoint's iteration or ``last``, or its number.

    Raises:
        UserError: There is none, or several.
    """
    known = _evaluations(run)
    if not known:
        raise UserError(f"evaluation: {run.name} has none yet; `python -m ecm_cluster.status {run.name}` shows why")
    iterations = {key: _iteration(key) for key in known}
    if text == LAST:
        last = checkpoints.last(run)
        wanted = last.iteration if last else max(iterations.values())
        found = [key for key in known if iterations[key] == wanted]
    elif text.isdigit() and len(text) <= 12:
        number = int(text)
        found = [key for key in known if iterations[key] == number]
        found = found or (list(known)[number - 1:number] if number else [])
    else:
        found = [key for key in known if key == text] or [key for key in known if text in key]
    if len(found) != 1:
        listed = ", ".join(f"{n} ({key}, {known[key]})" for n, key in enumerate(known, 1) if key in (found or known))
        raise UserError(f"evaluation: {text!r} stands for " + ("several" if found else "none")
                        + f" of {run.name}; expected one of: {listed}")
    return run.evaluation(found[0])


def _evaluations(run: Run) -> dict[str, str]:
    """Every evaluation that has begun or was asked for, by key, with its settings in words."""
    known = {work.key: "" for work in run.evaluations()}
    for link in dict.fromkeys([chain.EVALUATE, *run.links_with_elements()]):
        elements = evaluations.read(run, link)
        for element, work in zip(elements, evaluations.works(run, elements)):
            if work is not None:
                known[work.key] = eval_settings.label(element.settings)
    return {key: label or "as configured" for key, label in sorted(known.items())}


def _iteration(key: str) -> int:
    found = re.match(r"iter_([0-9]{1,12})-", key)
    return int(found[1]) if found else -1
