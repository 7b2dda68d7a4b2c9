"""TensorBoard: one event file, which holds every step once.

A new file is complete before it takes its name, and its first event tells a TensorBoard that is running to drop what
it has read of the older ones, which are then removed.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .series import Point
from .tracker import Tracker

PREFIX = "events.out.tfevents."  # by which TensorBoard finds files; it reads them in the order of their names


class TensorBoard(Tracker):
    """Writes event files."""

    _file: io.FileIO | None = None

    @property
    def folder(self) -> Path:
        given = self.options.get("log_dir")
        if given is None:
            return self.run.tracker_dir("tensorboard")
        return Path(self.run.spec.cwd, os.path.expanduser(given), self.run.name)

    @property
    def _files(self) -> list[Path]:
        """This run's own: others may write into the same directory."""
        return sorted(self.folder.glob(f"{PREFIX}*.{self.run.spec.run_id}"))

    def rewrite(self, points: Sequence[Point]) -> None:
        self._drop()
        self.folder.mkdir(parents=True, exist_ok=True)
        older = self._files
        stamps = [int(path.name[len(PREFIX):].partition(".")[0]) for path in older]
        stamp = max([int(time.time()), *(1 + each for each in stamps)])
        name = f"{PREFIX}{stamp:010d}.{socket.gethostname()}.{os.getpid()}.{self.run.spec.run_id}"
        hidden = self.folder / f".{name}"
        try:
            self._file = io.FileIO(hidden, "w")
            self._write([_head(), _start(), *_events(points)])
            os.replace(hidden, self.folder / name)
        except BaseException:
            self._drop()
            with contextlib.suppress(OSError):
                hidden.unlink()
            raise
        for path in [*older, *self.folder.glob(f".{PREFIX}*.{self.run.spec.run_id}")]:
            path.unlink()

    def append(self, points: Sequence[Point]) -> None:
        self._write(_events(points))

    def _write(self, events: Iterable[Any]) -> None:
        """Write all of these events, or none: no reader gets past a truncated one."""
        from tensorboard.summary.writer.record_writer import RecordWriter

        assert self._file is not None
        made = io.BytesIO()
        records = RecordWriter(made)
        for event in events:
            records.write(event.SerializeToString())
        left, begin = made.getbuffer(), self._file.tell()
        try:
            while left:
                left = left[self._file.write(left):]
        except OSError:
            self._file.seek(begin)
            self._file.truncate()
            raise

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _drop(self) -> None:
        with contextlib.suppress(OSError):
            self.close()

    def exists(self) -> bool:
        return bool(self._files)


def _head() -> Any:
    from tensorboard.compat.proto.event_pb2 import Event

    return Event(wall_time=time.time(), file_version="brain.Event:2")


def _start() -> Any:
    """Makes readers drop every step from 0 on that they have from other files."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    return Event(wall_time=time.time(), step=0, session_log=SessionLog(status=SessionLog.START))


def _events(points: Iterable[Point]) -> Iterable[Any]:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    for point in points:
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in point.values.items()]
        yield Event(wall_time=point.time, step=point.iteration, summary=Summary(value=values))
