"""What a run and an evaluation have in common: a directory in which attempts work until the work is done.

Only this module and ``paths.py`` spell the names of files in a run directory.
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

from ..base import files, fileserver
from ..base.errors import UserError
from ..base.reading import Unreadable, open_regular
from . import ledger as ledgers
from . import records

NUMBER = re.compile(r"([0-9]{1,9})\.json")  # the file of an attempt
HEARTBEAT_BYTES = 2048  # padded to more than any takes, so that rewriting it in place needs no space on a full disk


class Work:
    """A directory, which may not exist yet, in which attempts work until the work is done: a run or an evaluation.

    Attributes:
        damage: Descriptions of damaged files that were found and could be ignored.
    """

    attempt_shape: Mapping[Any, Any] = records.ATTEMPT

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.damage: dict[str, None] = {}

    def note(self, what: object) -> None:
        """Remember a damaged file."""
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
        """Created exclusively; its existence makes every attempt with a lower number stale."""
        return self.attempts_dir / f"{number:04d}.json"

    def rendezvous_file(self, number: int) -> Path:
        """Address of the attempt's rendezvous store, written by rank 0."""
        return self.attempts_dir / f"{number:04d}.rendezvous.json"

    def abort_file(self, number: int) -> Path:
        """Exists once a rank of the attempt has failed: the others then exit."""
        return self.attempts_dir / f"{number:04d}.abort.json"

    def decision_file(self, number: int) -> Path:
        """What rank 0 decided after a coordinated stop, for the other ranks."""
        return self.attempts_dir / f"{number:04d}.decision.json"

    def heartbeat_file(self, number: int, rank: int | None = None) -> Path:
        """Rewritten about every 10 s by rank 0's supervisor: progress for ``status``, and proof that it is alive.

        Args:
            rank: Earlier versions had one file per rank.
        """
        of_rank = "" if rank is None else f".rank{rank:03d}"
        return self.attempts_dir / f"{number:04d}{of_rank}.heartbeat.json"

    def staged_file(self, number: int, node: int) -> Path:
        """Exists once a node has staged its data."""
        return self.attempts_dir / f"{number:04d}.node{node:03d}.staged.json"

    def staging_contact_file(self, number: int, digest: str, node: int) -> Path:
        """The address from which other nodes can fetch blocks of the pack with this digest."""
        return self.attempts_dir / f"{number:04d}.node{node:03d}.{digest}.contact.json"

    def stacks_file(self, number: int, rank: int) -> Path:
        """Stack traces of a rank's threads, if its attempt was ended because it hung."""
        return self.logs_dir / f"attempt{number:04d}.rank{rank:03d}.stacks.txt"

    def rank_log(self, rank: int) -> Path:
        """The output of a rank's worker process, over all attempts."""
        return self.logs_dir / f"rank{rank:03d}.log"

    def attempts(self) -> list[int]:
        """Numbers of all attempts, ascending."""
        return sorted(int(f[1]) for f in map(NUMBER.fullmatch, fileserver.names_in(self.attempts_dir)) if f)

    def newest_attempt(self) -> int:
        """Number of the newest attempt; 0 if there is none."""
        return max(self.attempts(), default=0)

    def read_attempt(self, number: int) -> dict[str, Any]:
        """The record of an attempt's start; see :data:`records.ATTEMPT` and :data:`records.ATTEMPT_TO_SCORE`.

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
        """Events of the ledger; those of one attempt or writer alone take fewer files to read."""
        return ledgers.read(self.ledger_dir, attempt, writer)

    def events_noted(self) -> list[ledgers.Event]:
        """All readable events; what is damaged or cannot be read is noted in :attr:`damage`."""
        return ledgers.read(self.ledger_dir, note=self.note)

    def fold_ledger(self, attempt: int) -> None:
        """Copy the events of all attempts up to this one, which are closed, into one file."""
        ledgers.fold(self.ledger_dir, attempt)

    def heartbeat(self, attempt: int) -> dict[str, Any] | None:
        """The progress of an attempt: phase, iteration, loss, …; None if it is not known."""
        for path in (self.heartbeat_file(attempt), self.heartbeat_file(attempt, 0)):
            with contextlib.suppress(OSError, Unreadable):  # it may be half written
                return records.read(path, records.HEARTBEAT)
        return None

    def write_heartbeat(self, attempt: int, **progress: Any) -> None:
        """Record the progress of an attempt, without fsync, as it may be lost.

        The file is rewritten in place: that needs no space on a full disk, and open handles on other nodes stay valid.
        Half written, it is not valid JSON, and readers ignore it.
        """
        text = json.dumps({"time": round(time.time(), 3), **progress}).encode().ljust(HEARTBEAT_BYTES)
        handle = os.open(self.heartbeat_file(attempt), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            os.utime(handle)  # proves that it is alive even if the disk is full
            os.pwrite(handle, text, 0)
            os.ftruncate(handle, len(text))
        finally:
            os.close(handle)

    def seconds_since_heartbeat(self, attempt: int, watch: float = 0.0) -> float | None:
        """Seconds since the last heartbeat of an attempt, by the file server's clock only.

        Args:
            watch: If nothing can be written here, the server's time is unknown; then watch for so many seconds whether
                the heartbeat changes. Use more than its interval of 10 s.

        Returns:
            When watched: 0 if it changed, infinity if it did not. None: there is no heartbeat, or nothing can be
            written here and ``watch`` is 0.
        """
        last = self._heartbeat_state(attempt)
        if last is None:
            return None
        try:
            if os.stat(self.attempts_dir).st_uid != os.geteuid():
                raise PermissionError  # never write to another user's directory
            now = files.server_time(self.attempts_dir)
        except OSError:
            end = time.monotonic() + watch
            while time.monotonic() < end:
                time.sleep(min(0.5, watch / 4))
                if self._heartbeat_state(attempt) != last:
                    return 0.0
            return float("inf") if watch else None
        return max(0.0, now - max(stamp for stamp, _ in last))

    def _heartbeat_state(self, attempt: int) -> list[tuple[float, bytes]] | None:
        """Modification time and content of an attempt's heartbeat, as written by this version or earlier ones."""
        found = []
        for path in (self.heartbeat_file(attempt), self.heartbeat_file(attempt, 0)):
            # opened, as an NFS client answers a bare stat from its cache
            with contextlib.suppress(OSError, Unreadable), os.fdopen(open_regular(path), "rb") as handle:
                found.append((os.fstat(handle.fileno()).st_mtime, handle.read(2 * HEARTBEAT_BYTES)))
        return found or None


class Evaluation(Work):
    """One checkpoint evaluated with one set of detection settings; shared by all links that include it."""

    attempt_shape = records.ATTEMPT_TO_SCORE

    @property
    def key(self) -> str:
        return self.path.name

    @property
    def detections_dir(self) -> Path:
        return self.path / "detections"

    @property
    def scored_set_file(self) -> Path:
        """The images and categories that the detections cover."""
        return self.detections_dir / "scored_set.json"

    @property
    def chunks_file(self) -> Path:
        """How the images are divided into chunks, as decided by the first start."""
        return self.detections_dir / "chunks.json"

    def chunk_file(self, number: int) -> Path:
        """The detections for one chunk of the images, written atomically."""
        return self.detections_dir / f"chunk-{number:05d}.npz"

    def metrics_file(self, variant: str = "", suffix: str = "json") -> Path:
        """Written last: it exists once scoring is complete. ``variant``: see :func:`evaluations.scoring_variant`."""
        return self.path / f"metrics{variant and '-' + variant}.{suffix}"

    def per_class_file(self, variant: str = "", suffix: str = "txt") -> Path:
        return self.path / f"per_class{variant and '-' + variant}.{suffix}"

    @property
    def analysis_file(self) -> Path:
        """Where the model goes wrong (:mod:`ecm_cluster.analysis.summary`); may be missing."""
        return self.path / "analysis.json"

    def analysis_image(self, number: int) -> Path:
        return self.path / f"analysis-{number:02d}.jpeg"

    def metrics(self, variant: str = "") -> dict[str, Any] | None:
        """The metrics of one scoring variant; None if they do not exist or are damaged, and can be computed again."""
        return self._metrics(self.metrics_file(variant))

    def all_metrics(self) -> list[dict[str, Any]]:
        """The metrics of every scoring variant, the default one first."""
        names = (n for n in fileserver.names_in(self.path) if n.startswith("metrics") and n.endswith(".json"))
        return [found for n in sorted(names, key=len) if (found := self._metrics(self.path / n)) is not None]

    def _metrics(self, path: Path) -> dict[str, Any] | None:
        with contextlib.suppress(FileNotFoundError):
            try:
                return records.read(path, records.METRICS)
            except Unreadable as error:
                self.note(error)
        return None
