"""Events of staging in the ledger."""

from __future__ import annotations

import socket
from typing import Any

from ..rundir.run import Work
from .world import RankInfo


class StagingEvents:
    """Events of this rank's staging, in its own file of the ledger."""

    def __init__(self, work: Work, attempt: int, place: RankInfo) -> None:
        self.work, self.attempt, self.place = work, attempt, place

    def problem(self, what: str, detail: str) -> None:
        """Something did not go as planned; all ranks of a node meet it, and one writes it."""
        if self.place.local_rank == 0:
            self.write("staging", what=what, detail=detail)

    def write(self, kind: str, **fields: Any) -> None:
        self.work.ledger(self.attempt, f"staging{self.place.rank:03d}", patient=True).write(
            kind, node=self.place.node, host=socket.gethostname(), rank=self.place.rank, **fields)
