"""Reading a run only to show it: damaged files are noted and skipped, and the ledger is read once."""

from __future__ import annotations

from typing import Any

from ..base import fileserver
from ..base.errors import UserError
from ..rundir.ledger import Event
from ..rundir.run import Evaluation, Run, Submission, Work
from ..rundir.spec import LinkRecord, Overrides


class _Once(Work):
    """Reads the ledger once, as far as it can be read."""

    _events: list[Event] | None = None
    _of_attempt: dict[int, list[Event]]

    def events(self, attempt: int | None = None, writer: str | None = None) -> list[Event]:
        if self._events is None:
            events = self.events_noted()
            by_attempt: dict[int, list[Event]] = {}
            for event in events:
                by_attempt.setdefault(event.attempt, []).append(event)
            self._of_attempt, self._events = by_attempt, events  # complete before another thread sees them
        found = self._events if attempt is None else self._of_attempt.get(attempt, [])
        return [e for e in found if writer in (None, e.writer)]

    def read_attempt(self, number: int) -> dict[str, Any]:
        try:
            return super().read_attempt(number)
        except (UserError, OSError) as error:
            self.note(error)
            return {"accepts": self._accepted_without_record()}

    def _accepted_without_record(self) -> list[str]:
        return []


class TolerantEvaluation(_Once, Evaluation):
    """An evaluation of a :class:`TolerantRun`."""


class TolerantRun(_Once, Run):
    """A run, possibly damaged or another user's, that is only shown: no decision may depend on it.

    Attributes:
        footprint: What was read of it; within ``footprint.noting()`` each file is read once.
    """

    def __init__(self, path: Any) -> None:
        super().__init__(path)
        self.footprint = fileserver.Footprint()
        self._evaluations: dict[str, Evaluation] = {}

    def evaluation(self, key: str) -> Evaluation:
        if key not in self._evaluations:
            found = self._evaluations[key] = TolerantEvaluation(self.evaluations_dir / key)
            found.note = self.note  # type: ignore[method-assign]
        return self._evaluations[key]

    def _accepted_without_record(self) -> list[str]:
        return [f"{path.stem}.pth" for path in self.checkpoints_dir.glob("iter_*.json")]

    def _or(self, default: Any, read: Any, *args: Any) -> Any:
        try:
            return read(*args)
        except (UserError, OSError) as error:
            self.note(error)
            return default

    def cancel_mark(self) -> dict[str, Any] | None:
        return self._or({}, super().cancel_mark)

    def link_record(self, link: str) -> LinkRecord | None:
        return self._or(None, super().link_record, link)

    def completion(self) -> str | None:
        return self._or(None, super().completion)

    def overrides(self) -> Overrides:
        return self._or(Overrides(), super().overrides)

    def submission(self, link: str) -> dict[str, Any]:
        return self._or({}, super().submission, link)

    def submissions(self) -> list[Submission]:
        with self.footprint.noting():  # asked of all runs before any of them is read
            return self._or([], super().submissions)
