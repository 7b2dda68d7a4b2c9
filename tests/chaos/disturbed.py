"""A run that is disturbed: submitted, killed again and again, resumed where it has stopped, followed to its end."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from small import verb

from ecm_cluster.attempts import endings
from ecm_cluster.base import files
from ecm_cluster.reporting import state as states
from ecm_cluster.rundir import checkpoints
from ecm_cluster.rundir.run import Run

from .places import Missed, Place, first_task
from .plan import Dice, Kill, Shape
from .tally import Tally
from .troubles import Troubles

PATIENCE = 1500.0  # seconds without anything new after which a run counts as lost
MOST_KILLS = 25  # of one run


class Wrong(Exception):
    """Something that must hold does not."""


class Disturbed:
    """A run under fire.

    Args:
        startup: Seconds that an attempt usually takes to its first checkpoint.
        submit: The words of ``submit``.
    """

    def __init__(self, run: Run, shape: Shape, place: Place, dice: Dice, tally: Tally, startup: float,
                 submit: Sequence[str], order: Path) -> None:
        self.run, self.shape, self.place, self.dice, self.tally = run, shape, place, dice, tally
        self.startup, self.submit_words, self.order = startup, submit, order
        self.env = dict(place.env)
        self.troubles: Troubles | None = None  # of a run that is to be disturbed
        self.kills = self.resumes = 0
        self.ended = 0  # the newest attempt that has been given a fatal blow
        self._polled = self._stopped_since = 0.0
        self._news: tuple[Any, float] = (None, time.monotonic())

    def execute(self) -> None:
        """To the end.

        Raises:
            Wrong: The run is lost, or something that must hold does not.
        """
        self.troubles = Troubles(self.run, self.place, self.tally, self.order)
        self.env.update({files.KILL_ENV: f"@{self.order}", **self.troubles.env})
        try:
            self._execute(self.troubles)
        finally:
            self.troubles.end()

    def _execute(self, troubles: Troubles) -> None:
        self.type_verb("submit", *self.submit_words)
        staging = self.dice.staging_point()
        if staging is not None:
            self.make(staging)
        while self.kills < MOST_KILLS and self.tally.wants_more():
            kill, trouble = self.dice.kill(), self.dice.trouble()
            if trouble is not None:
                troubles.begin(trouble, self.submit_words)
            made = self.make(kill)
            if self.done():
                break
            if made:
                self.check()
        self.disarm()
        self.wait(lambda: False)
        troubles.end()
        deadline = time.monotonic() + 90
        while left := self.place.left_over(self.run):
            if time.monotonic() > deadline:
                raise Wrong(f"processes that have not ended: {left}")
            time.sleep(0.5)

    def disk_failed(self) -> bool:
        """Whether anything that the run wrote has failed for ESTALE or ENOSPC."""
        return self.troubles is not None and any(self.troubles.failed())

    # -- kills

    def make(self, kill: Kill) -> bool:
        """Whether a process was killed."""
        if kill.point is None:
            return self.wait(lambda: self.is_moment(kill)) and self.strike(kill)
        if kill.when == "start":
            self.arm(kill)
            # let a new attempt begin
            if self.attempt() and not self.strike(Kill("SIGTERM to a supervisor", victim="task", signal="SIGTERM")):
                return self.disarm() is not None and self.count(kill)
            return self.await_taken(kill, more=2)
        if kill.when in ("staging", "end"):
            self.arm(kill)
            return self.await_taken(kill, more={"staging": 0, "end": 99}[kill.when])
        if not self.wait(lambda: self.is_moment(kill)):
            return False
        self.arm(kill)
        trigger = {"signal": Kill("SIGTERM to a supervisor", victim="task", signal="SIGTERM", rank=kill.rank),
                   "kill": Kill("SIGKILL to a worker", victim="worker", rank=kill.rank),
                   "preempt": Kill("preemption", victim="preempt", rank=kill.rank)}.get(kill.when)
        if trigger is not None:
            self.strike(trigger)
        return self.await_taken(kill, more=1)

    def is_moment(self, kill: Kill) -> bool:
        """Whether the moment of a kill has come."""
        attempt = self.attempt()
        if not attempt or first_task(self.run, attempt) is None:
            return False
        record = self.run.read_attempt(attempt)
        if kill.starting:
            return time.time() >= record["time"] + kill.fraction * self.startup
        beat = self.run.heartbeat(attempt) or {}
        if beat.get("phase") not in ("training", "saving") or beat["iteration"] < started_at(record) + kill.steps:
            return False
        time.sleep(kill.fraction * (beat.get("seconds_per_iteration") or 0.2))
        return True

    def strike(self, kill: Kill) -> bool:
        """Send a signal; False where nobody is there to take it."""
        attempt = self.run.newest_attempt()
        try:
            times = self.place.strike(self.run, attempt, kill)
        except Missed:
            return False
        if kill.fatal:
            self.ended = max(self.ended, attempt)
        return any([self.count(kill) for _ in range(times)])

    def arm(self, kill: Kill) -> None:
        assert kill.point is not None
        self.order_to_die(kill.point.format(attempt=self.run.newest_attempt()))

    def order_to_die(self, point: str) -> None:
        self.taken_file().unlink(missing_ok=True)
        files.write_text(self.order, point)

    def taken_file(self) -> Path:
        return Path(f"{self.order}{files.TAKEN}")

    def disarm(self) -> bool | None:
        """Take the order back; True where a process has died of it meanwhile, None where none had."""
        with contextlib.suppress(FileNotFoundError):
            self.order.unlink()
            return None
        return True if self.taken_file().exists() else None

    def await_taken(self, kill: Kill, more: int) -> bool:
        """Wait until a process has died at the point; not beyond so many further attempts."""
        last = self.run.newest_attempt() + more
        self.wait(lambda: self.taken_file().exists() or self.run.newest_attempt() > last)
        if not self.disarm():
            return False
        if kill.fatal:
            # who died of it has been of the newest attempt; before-link: of the next one, which has not begun
            self.ended = max(self.ended, self.run.newest_attempt() if "link" not in kill.label else 0)
        return self.count(kill)

    def count(self, kill: Kill) -> bool:
        self.kills += 1
        self.taken_file().unlink(missing_ok=True)
        self.tally.killed(kill.label, named=kill.point is not None, ranks=self.shape.ranks)
        return True

    # -- following the run

    def attempt(self) -> int:
        """The newest attempt, if it has not been given its end; else 0."""
        newest = self.run.newest_attempt()
        if newest <= self.ended or endings.last_end(self.run.events(), newest) is not None:
            return 0
        return newest

    def done(self) -> bool:
        return self.run.completion() is not None and self.state().state == "done"

    def state(self) -> states.RunState:
        return states.fold([self.run])[0]

    def wait(self, holds: Callable[[], bool]) -> bool:
        """Until it holds (True), or the run is done (False). Resumes the run where it has stopped.

        Raises:
            Wrong: Nothing has happened for too long.
        """
        while not holds():
            if self.tally.interrupted:
                raise Wrong("interrupted")
            if self.troubles and self.troubles.wrong:
                raise Wrong(self.troubles.wrong)
            if self.done():
                return holds()
            if time.monotonic() - self._polled > self.place.poll_seconds:
                self._polled = time.monotonic()
                self.look_after()
            time.sleep(0.05)
        return True

    def look_after(self) -> None:
        """Resume a run that has stopped for good, and notice one in which nothing happens any more."""
        state = self.state()
        news = (state.state, state.attempt, state.iteration, len(self.run.events()))
        if news != self._news[0]:
            self._news = (news, time.monotonic())
        if time.monotonic() - self._news[1] > PATIENCE:
            raise Wrong(f"nothing happens any more: {state.state}, {state.reason}")
        if state.state not in ("stopped", "failed", "submitting") or self.place.alive(self.run):
            self._stopped_since = 0.0
        elif not self._stopped_since:
            self._stopped_since = time.monotonic()
        elif time.monotonic() - self._stopped_since > self.place.poll_seconds:
            self.resume()

    def resume(self) -> None:
        self._stopped_since = 0.0
        self.resumes += 1
        self.tally.resumed(self.state().reason)
        self.type_verb("resume", self.run.path)

    def type_verb(self, name: str, *words: object) -> None:
        """As a user would; where it is killed, again."""
        point = self.dice.verb_point(name)
        if point is not None and not self.order.exists():
            self.order_to_die(point)
        else:
            point = None
        if self.troubles and self.dice.typed_twice():
            self.troubles.type(name, words, f"{name}, typed twice at once")
        for _ in range(2):
            typed = verb(name, *words, env=self.env, code=None)
            if typed.returncode == -9 and point is not None and self.taken_file().exists():
                self.count(Kill(f"{point}, typing {name}", point))
                if self.place.alive(self.run):
                    return  # it had come far enough
                continue
            break
        if point is not None and self.disarm():  # a process that the verb has started
            self.count(Kill(f"{point}, typing {name}", point))
        beaten = ("is alive", "at the same time", "already exists")  # by a second user, who was faster
        if typed.returncode != 0 and not any(word in typed.stderr for word in beaten):
            raise Wrong(f"{name}: exit code {typed.returncode}\n{typed.stdout}\n{typed.stderr}")

    # -- what must hold at every moment

    def check(self) -> None:
        """Status answers, and every checkpoint that counts is whole.

        Raises:
            Wrong: It is not so.
        """
        try:
            said = verb("status", self.run.path, "--json", env=self.place.env, timeout=120)
            json.loads(said.stdout)
        except (AssertionError, ValueError, subprocess.TimeoutExpired) as error:
            raise Wrong(f"status does not answer: {error}") from None
        if "Traceback" in said.stderr:
            raise Wrong(f"status: {said.stderr}")
        for manifest in checkpoints.accepted(self.run):
            why = checkpoints.problem(self.run, manifest)
            # it may have been pruned meanwhile, its manifest first
            if why and manifest in checkpoints.manifests(self.run):
                raise Wrong(f"{manifest.file} counts, and {why}")
        finished = {e.attempt for e in self.run.events() if e.kind == "complete"}
        if len(finished) > 1:
            raise Wrong(f"completed by attempts {sorted(finished)}")
        if len(self.place.carriers(self.run)) > 1:
            time.sleep(5)  # one may be about to end
            if len(carriers := self.place.carriers(self.run)) > 1:
                raise Wrong(f"carried by {carriers}")


def started_at(record: dict[str, Any]) -> int:
    """The iteration that an attempt resumes after."""
    return int(str(record["from"])[5:12]) if record.get("from") else 0
