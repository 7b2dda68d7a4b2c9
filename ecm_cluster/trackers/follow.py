"""Feeds one tracker during a training: ``python -m ecm_cluster.trackers.follow RUN NAME``.

Rank 0's supervisor starts it and watches it, see :mod:`ecm_cluster.node.companion`: each line on stdout is a warning
for the user, an empty one says that it is alive, and the end of its stdin that it should complete its work.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from ..base import files
from ..rundir.run import Run
from .feeding import Feed, asked
from .sync import bring_up_to_date, missing, reason

LOOK_SECONDS = 5.0  # between two looks at the log
LEAST_PAUSE = 20.0  # times what a look took: its share of a core stays below a twentieth
RETRY_SECONDS = 60.0  # after an error, doubled each time
MOST_SECONDS = 900.0


class Follower:
    """The process."""

    def __init__(self, run: Run, name: str) -> None:
        self.run, self.name = run, name
        self._out = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8", errors="replace")
        os.dup2(2, 1)  # what a library prints is not a warning
        self._ended = False
        self._said: set[str] = set()

    def say(self, text: str = "") -> None:
        if not text or text not in self._said:
            self._said.add(text)
            with suppress(OSError):
                print(" ".join(text.split()), file=self._out, flush=True)

    def pause(self, seconds: float) -> None:
        """Wait, until the supervisor says that the attempt has ended."""
        end = time.monotonic() + seconds
        while not self._ended and (left := end - time.monotonic()) > 0:
            self._ended = bool(select.select([0], [], [], min(left, LOOK_SECONDS))[0])
            self.say()

    def follow(self) -> None:
        options = asked(self.run).get(self.name)
        if options is None:
            return
        if missing(self.name):
            self.say(missing(self.name))
            return
        self.run.trackers_dir.mkdir(exist_ok=True)
        files.private_file(self.run.tracker_lock(self.name))
        while True:
            with suppress(BlockingIOError), files.locked(self.run.tracker_lock(self.name), patience=1.0):
                self._feed(Feed(self.run, self.name, options, self.say))
                break
            self.pause(0.1)
            if self._ended:
                return  # the process that holds the lock looks again after it has released it
        bring_up_to_date(self.run, self.name, options, self.say)

    def _feed(self, feed: Feed) -> None:
        retry = RETRY_SECONDS
        while True:
            began, last, failed = time.monotonic(), self._ended, False
            try:
                feed.update()
                if last:
                    feed.close()
            except Exception as error:
                failed = True
                self.say(reason(error))
            if last:
                return
            self.pause(retry if failed else max(LOOK_SECONDS, LEAST_PAUSE * (time.monotonic() - began)))
            retry = min(MOST_SECONDS, 2 * retry) if failed else RETRY_SECONDS


def main(run_path: str, name: str) -> int:
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):
        os.nice(19)
    with suppress(OSError):  # where memory runs out, it goes first
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")
    follower = Follower(Run(run_path), name)
    try:
        follower.follow()
    except Exception as error:
        follower.say(reason(error))
        raise
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], sys.argv[2]))
