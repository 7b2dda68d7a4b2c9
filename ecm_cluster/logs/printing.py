"""Printing logs, and what is added to them."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence

from ..backends import choose, liveness
from ..console import cli, output
from ..reporting import state as states
from ..reporting.run_state import ENDED, PATIENCE
from ..rundir.run import Run
from . import log_files
from .choice import Choice
from .log_files import Part

LOOK_SECONDS = 0.5  # between two looks at a log that is followed
TRAINED = ("evaluating", "complete")  # states in which nothing is added to the training's log any more


def show(choice: Choice, lines: int | None) -> None:
    """Print what there is; one line about why there is nothing."""
    note, parts = choice.parts()
    if note:
        say(note)
    write(parts if lines is None else log_files.last_lines(parts, lines))
    hint = choice.hint()
    if hint:
        say(hint)
    if not parts:
        state = states.fold([Run(choice.run.path)])[0]
        say(f"there is no log{choice.words} yet; {state.run} is {state.state}: {state.reason}")
        if state.next:
            say(f"next: {state.next}")


def write(parts: Sequence[Part]) -> None:
    """Print parts of logs, with a title each if there are several."""
    for part in parts:
        if len(parts) > 1:
            print(f"==> {part.path} <==")
        for text in log_files.text_of(part):
            print(text, end="")
            if output.is_closed(sys.stdout):
                return


def say(text: str) -> None:
    """A line about the log, apart from it."""
    sys.stdout.flush()
    cli.say(text, sys.stderr)


def follow(choice: Choice, lines: int | None) -> None:
    """Print what there is and what is added, until nothing more can be, or nobody reads it."""
    _, parts = choice.parts(follow=True)
    parts = parts if lines is None else log_files.last_lines(parts, lines)
    write(parts[:-1])
    log = log_files.Growing(parts[-1].path, parts[-1].begin) if parts else None
    ending, is_over = Ending(choice), False
    while not is_over and not output.is_closed(sys.stdout, LOOK_SECONDS if ending.asked else 0.0):
        is_over = ending.reached()  # asked first: what was written before is read after it
        for text in log.read() if log else ():
            print(text, end="")
            ending.asked = time.monotonic()
        path = choice.path()
        if path is not None and (log is None or log.path != path):  # of the job that came after
            log, is_over = log_files.Growing(path), False
        sys.stdout.flush()
    if log is not None and log.at:
        print(log.rest(), end="")
    elif is_over:
        show(choice, lines)


class Ending:
    """Whether a log that is followed is complete; changes of the run's state are reported meanwhile.

    Attributes:
        asked: When it was asked last, or something was added: nothing ends in between.
    """

    def __init__(self, choice: Choice) -> None:
        self.choice, self.pause = choice, choose.of(choice.run).poll_seconds
        self.asked, self.since, self.said = 0.0, 0.0, ""

    def reached(self) -> bool:
        now = time.monotonic()
        if now - self.asked < self.pause:
            return False
        self.asked = now
        state = states.fold([Run(self.choice.run.path)])[0]
        self._tell(state)
        if self.choice.is_of_training:
            certain = state.state in ("done", *TRAINED)
            over = certain or state.state in ENDED
        else:
            certain = self.choice.is_scored()
            over = certain or liveness.alive(self.choice.run) == {}
        self.since = (self.since or now) if over else 0.0
        return over and (certain or now - self.since > PATIENCE)

    def _tell(self, state: states.RunState) -> None:
        text = f"{state.state}: {state.reason}"
        if (words := re.sub("[0-9.]+", "", text)) != self.said and text != "running: training":
            say(f"-- {text}")
        self.said = words
