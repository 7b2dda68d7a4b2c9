"""Watching runs: the table of those that are at work or wait, rewritten until all have ended.

In a log it is a line for each change instead. Each look reads the run directories and asks Slurm once for all of them.
"""

from __future__ import annotations

import math
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Callable

from ..base.errors import UserError
from ..base.units import duration_text
from ..console import cli, layout, output
from ..reporting import goodput, runs_table
from ..reporting import state as states
from ..reporting.run_state import ENDED, PATIENCE, RunState
from ..reporting.tables import UNDEFINED
from ..rundir.run import Run
from ..scoring import metrics
from . import forecast
from .follow import change

pause = time.sleep
SECONDS = 5.0  # between two looks
# between two accounts of a run, which read all of its ledger: at least, and in times of what the last one took
ACCOUNT_SECONDS, ACCOUNT_SHARE = 5.0, 20.0
FULL_LOOK, RESTED_SECONDS = 12, 30.0  # every so many looks at all runs; else not at those that rest for so long
AT_REST = (*ENDED, "submitting", "unreadable")  # it does not change any more
HEADER = ("run", "state", "attempt", "iteration", "it/s", "loss", "left", "next score")
OPTIONAL = ("attempt", "APr", "loss", "it/s", "goodput", "box AP", "mask AP", "next score")


class Watcher:
    """What is shown of the runs, look by look.

    Args:
        find: The runs, which may be others at each look.
        all_of_them: Show those as well that had ended before.
    """

    def __init__(self, find: Callable[[], Sequence[Run]], all_of_them: bool) -> None:
        self._find, self._all = find, all_of_them
        self._seen: set[str] = set()
        self._accounts: dict[str, tuple[tuple[str, int], float, str]] = {}  # of what, when it is due again, goodput
        self.states: list[RunState] = []
        self._runs: dict[str, Run] = {}
        self._states: dict[str, RunState] = {}
        self._rests: dict[str, float] = {}  # since when nothing changes
        self._looks = 0

    def look(self) -> None:
        try:
            found = self._find()
        except (UserError, OSError):  # a run was moved away meanwhile
            if not self._runs:
                raise
            found = list(self._runs.values())
        self._runs = {str(run.path): run for run in found}
        now, is_full = time.monotonic(), self._looks % FULL_LOOK == 0
        due = [run for path, run in self._runs.items() if is_full or now - self._rests.get(path, now) < RESTED_SECONDS]
        self._states.update(zip((str(run.path) for run in due), states.fold(due)))
        self.states = [self._states[path] for path in self._runs]
        for s in self.states:
            if s.state not in AT_REST:
                self._seen.add(s.path)
                self._rests.pop(s.path, None)
            else:
                self._rests.setdefault(s.path, now if self._looks else -math.inf)
        self._looks += 1

    @property
    def shown(self) -> list[RunState]:
        return [s for s in self.states if self._all or s.path in self._seen]

    @property
    def at_rest(self) -> bool:
        return all(s.state in AT_REST for s in self.states)

    def lines(self, room: int | None = None, color: bool = False) -> list[str]:
        """The counts, and the table."""
        count = Counter(s.state for s in self.states)
        order = sorted(count, key=lambda state: (state in AT_REST, -count[state], state))
        said = ", ".join(f"{count[state]} {state}" for state in order) or "no runs"
        silent = any(s.state == "unknown" or "Slurm does not answer" in s.reason for s in self.states)
        warning = "; Slurm does not answer" if silent else ""
        head = layout.wrapped(f"{time.strftime('%H:%M:%S')}  {said}{warning}", room)
        kinds = runs_table.kinds_of(self.shown)
        rows = [self._row(s, kinds) for s in self.shown]
        if not rows:
            return head
        header = (*HEADER, *(metrics.in_words(kind, "AP") for kind in kinds), "APr", "goodput", "why")
        table = layout.table(header, rows, 2, room, prose=True, optional=OPTIONAL, rule=True,
                             paint=runs_table.paint if color else None)
        return [*(layout.styled(line, "yellow" if silent and color else "") for line in head), "", *table]

    def _row(self, s: RunState, kinds: Sequence[str]) -> tuple[str, ...]:
        run = self._runs[s.path]
        pace = f"{1 / s.seconds_per_iteration:.2f}" if s.state == "running" and s.seconds_per_iteration else ""
        loss = "" if s.loss is None else f"{s.loss:.3f}"
        return (s.run, s.state, str(s.attempt or ""), runs_table.progress(s), pace, loss,
                _time(s.seconds_left), _time(forecast.next_score(run, s) if s.state not in AT_REST else None),
                *runs_table.aps(s, kinds), runs_table.figure(s, "APr"), self._goodput(run, s),
                cli.as_typed(s.reason + s.expected))

    def _goodput(self, run: Run, s: RunState) -> str:
        of_what, due, text = self._accounts.get(s.path, (None, 0.0, ""))
        begin = time.monotonic()
        if of_what != (s.state, s.attempt) or (begin > due and s.state not in AT_REST):
            try:
                text = goodput.percent(goodput.account(run, s.state == "running").goodput)
            except (UserError, OSError):
                text = UNDEFINED
            now = time.monotonic()
            due = now + max(ACCOUNT_SECONDS, ACCOUNT_SHARE * (now - begin))
            self._accounts[s.path] = (s.state, s.attempt), due, text
        return text


def _time(seconds: float | None) -> str:
    return "" if seconds is None else duration_text(seconds)


def watch(find: Callable[[], Sequence[Run]], all_of_them: bool, seconds: float = SECONDS) -> None:
    """Look again and again until all runs have ended, or the user interrupts."""
    watcher = Watcher(find, all_of_them)
    try:
        if sys.stdout.isatty():
            _on_terminal(watcher, seconds)
        else:
            _in_log(watcher, seconds)
    except KeyboardInterrupt as end:
        if end.args and end.args[0] != signal.SIGINT:
            raise


def _on_terminal(watcher: Watcher, seconds: float) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    def text(lines: Sequence[str]) -> Text:
        room = shutil.get_terminal_size().lines - 1
        more = [f"({len(lines) - room + 1} more lines)"] if len(lines) > room else []
        return Text.from_ansi("\n".join([*lines[:room - len(more)], *more]), no_wrap=True, overflow="ellipsis")

    with Live(Text("looking ..."), console=Console(file=output.bare(sys.stdout)), auto_refresh=False,
              redirect_stdout=False, redirect_stderr=False) as live:
        for is_last in _looks(watcher, seconds):
            room = (layout.width() or 80) - 1
            lines = watcher.lines(room, layout.is_colored())
            live.update(text(lines if is_last else [*lines, "", _hint(seconds)]), refresh=True)


def _hint(seconds: float) -> str:
    return f"every {seconds:g} s; Ctrl-C ends it"


def _in_log(watcher: Watcher, seconds: float) -> None:
    keys: dict[str, str] = {}
    for _ in _looks(watcher, seconds):
        for s in watcher.shown:
            key, line = change(s)
            if keys.get(s.path) != key:
                print(f"{time.strftime('%m-%d %H:%M:%S')}  {s.run}: {line}", flush=True)
            keys[s.path] = key
    if not watcher.shown:
        print(watcher.lines()[0])


def _looks(watcher: Watcher, seconds: float) -> Iterator[bool]:
    """Look, and say whether it was for the last time: a run must look ended for a while, unless it did at first."""
    since, first = None, True
    while True:
        watcher.look()
        since = (since or time.monotonic()) if watcher.at_rest else None
        is_last = since is not None and (first or time.monotonic() - since > PATIENCE)
        yield is_last
        if is_last:
            return
        first = False
        pause(seconds)
