"""A folder in which attempts do something until it is done: what a run and an evaluation have in common.

With ``run.py`` the only place that spells the name of a file in a run directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base import files
from ..base.errors import UserError
from ..base.reading import Unreadable
from . import ledger as ledgers
from . import records

NUMBER = re.compile("[0-9]{1,9}")  # of an attempt, as a file has it
HEARTBEAT_BYTES = 2048  # more than one takes, so that the next one takes no more room


class Work:
    """A folder, not yet made perhaps, in which attempts do something until it is done: a run, or one evaluation.

    Attributes:
        damage: What of it was read and is damaged, in words, each once: what could be done without.
    """

    attempt_shape: Mapping[Any, Any] = records.ATTEMPT

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.damage: dict[str, None] = {}

    def note(self, what: object) -> None:
        """Remember that something is damaged."""
        self.damage[" ".join(str(what).replace(f"{self.path}/", "").split())] = None

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

    def heartbeat_file(self, number: int, rank: int | None = None) -> Path:
        """Rewritten about every 10 s by rank 0's supervisor: progress for ``status``, and a sign of life.

        Args:
            rank: The former version had a file for each rank.
        """
        of_rank = "" if rank is None else f".rank{rank:03d}"
        return self.attempts_dir / f"{number:04d}{of_rank}.heartbeat.json"

    def staged_file(self, number: int, node: int) -> Path:
        """Present once a node has its data."""
        return self.attempts_dir / f"{number:04d}.node{node:03d}.staged.json"

    def staging_contact_file(self, number: int, digest: str, node: int) -> Path:
        """Where other nodes reach this one for blocks of the pack with this digest."""
        return self.attempts_dir / f"{number:04d}.node{node:03d}.{digest}.contact.json"

    def stacks_file(self, number: int, rank: int) -> Path:
        """Where a rank's threads stood when its attempt was given up as hung; empty or absent otherwise."""
        return self.logs_dir / f"attempt{number:04d}.rank{rank:03d}.stacks.txt"

    def rank_log(self, rank: int) -> Path:
        """What a rank's worker process prints, appended over all attempts."""
        return self.logs_dir / f"rank{rank:03d}.log"

    def attempts(self) -> list[int]:
        """Numbers of all attempts so far, ascending."""
        found = [p.stem for p in self.attempts_dir.glob("[0-9]*.json")]
        return sorted(int(stem) for stem in found if NUMBER.fullmatch(stem))

    def newest_attempt(self) -> int:
        """Number of the newest attempt, 0 if there was none."""
        return max(self.attempts(), default=0)

    def read_attempt(self, number: int) -> dict[str, Any]:
        """What an attempt began with; see :data:`records.ATTEMPT` and :data:`records.ATTEMPT_TO_SCORE`.

        Raises:
            UserError: It is damaged.
        """
        try:
            return records.read(self.attempt_file(number), self.attempt_shape)
        except Unreadable as error:
            raise UserError(f"{error}; restore the file from a backup") from None

    def ledger(self, attempt: int, writer: str, patient: bool = False) -> ledgers.Ledger:
        return ledgers.Ledger(self.ledger_dir, attempt, writer, patient)

    def events(self, attempt: int | None = None, writer: str | None = None) -> list[ledgers.Event]:
        """What is on record; of one attempt or of one writer alone where that will do, which reads fewer files."""
        return ledgers.read(self.ledger_dir, attempt, writer)

    def events_noted(self) -> list[ledgers.Event]:
        """All events, as far as the storage gives them; what it does not give, and what is damaged, is noted."""
        return ledgers.read(self.ledger_dir, note=self.note)

    def fold_ledger(self, attempt: int) -> None:
        """Gather the events of all attempts up to this one, which are closed, in one file; changes none of them."""
        ledgers.fold(self.ledger_dir, attempt)

    def heartbeat(self, attempt: int) -> dict[str, Any] | None:
        """The newest progress of an attempt: phase, iteration, loss, …; None before the first, or if it is lost."""
        for path in (self.heartbeat_file(attempt), self.heartbeat_file(attempt, 0)):
            with contextlib.suppress(OSError, Unreadable):  # half written, perhaps
                return records.read(path, records.HEARTBEAT)
        return None

    def write_heartbeat(self, attempt: int, **progress: Any) -> None:
        """Say how far an attempt is; losable, so there is no fsync.

        Rewritten in place: that takes no room on a full disk, and readers on other nodes keep their handle. What they
        see half written is no JSON.
        """
        text = json.dumps({"time": round(time.time(), 3), **progress}).encode().ljust(HEARTBEAT_BYTES)
        handle = os.open(self.heartbeat_file(attempt), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            os.utime(handle)  # a sign of life even where nothing can be written
            os.pwrite(handle, text, 0)
            os.ftruncate(handle, len(text))
        finally:
            os.close(handle)

    def silence(self, attempt: int, watch: float = 0.0) -> float | None:
        """Seconds since the last sign of life of an attempt, by the file server's clock alone.

        Args:
            watch: Where nothing can be written here, the server's clock cannot be asked; then see for so many seconds
                whether the heartbeat changes. Give more than the 10 s at which it is rewritten.

        Returns:
            0 where it changed while it was watched, infinity where it did not; None: there was no sign at all, or
            nothing can be written here and ``watch`` is 0.
        """
        last = self._last_sign(attempt)
        if last is None:
            return None
        try:
            if os.stat(self.attempts_dir).st_uid != os.geteuid():
                raise PermissionError  # nothing is written to what is another user's
            now = files.server_time(self.attempts_dir)
        except OSError:
            end = time.monotonic() + watch
            while time.monotonic() < end:
                time.sleep(min(0.5, watch / 4))
                if self._last_sign(attempt) != last:
                    return 0.0
            return float("inf") if watch else None
        return max(0.0, now - max(stamp for stamp, _ in last))

    def _last_sign(self, attempt: int) -> list[tuple[float, bytes]] | None:
        """Time on the file server and content of what an attempt's heartbeat is, of this version or the former one."""
        found = []
        for path in (self.heartbeat_file(attempt), self.heartbeat_file(attempt, 0)):
            # opened, as an NFS client answers a stat alone from its cache
            with contextlib.suppress(OSError):
                handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                try:
                    found.append((os.fstat(handle).st_mtime, os.read(handle, 2 * HEARTBEAT_BYTES)))
                finally:
                    os.close(handle)
        return found or None


class Evaluation(Work):
    """One checkpoint scored under one set of settings: done once, whoever asks."""

    attempt_shape = records.ATTEMPT_TO_SCORE

    @property
    def key(self) -> str:
        return self.path.name

    @property
    def detections_dir(self) -> Path:
        return self.path / "detections"

    @property
    def scored_set_file(self) -> Path:
        """Which images and categories the detections are on."""
        return self.detections_dir / "scored_set.json"

    @property
    def chunks_file(self) -> Path:
        """How the images are divided; the first start says it."""
        return self.detections_dir / "chunks.json"

    def chunk_file(self, number: int) -> Path:
        """The model's answers on one share of the images, whole or absent."""
        return self.detections_dir / f"chunk-{number:05d}.npz"

    def metrics_file(self, way: str = "") -> Path:
        """Written last: its presence means that the figures are there. ``way`` names another way to score."""
        return self.path / f"metrics{way and '-' + way}.json"

    def table_file(self, way: str = "") -> Path:
        return self.path / f"metrics{way and '-' + way}.txt"

    def per_class_file(self, way: str = "") -> Path:
        return self.path / f"per_class{way and '-' + way}.txt"

    def per_class_csv(self, way: str = "") -> Path:
        return self.path / f"per_class{way and '-' + way}.csv"

    def metrics(self, way: str = "") -> dict[str, Any] | None:
        """What was scored in one way; None where it was not, or where that is damaged: then it can be scored again."""
        return self._metrics(self.metrics_file(way))

    def all_metrics(self) -> list[dict[str, Any]]:
        """The documents of every way that this was scored in, the usual one first."""
        paths = sorted(self.path.glob("metrics*.json"), key=lambda p: len(p.name))
        return [document for document in map(self._metrics, paths) if document is not None]

    def _metrics(self, path: Path) -> dict[str, Any] | None:
        try:
            return records.read(path, records.METRICS)
        except FileNotFoundError:
            return None
        except Unreadable as error:
            self.note(error)
            return None
