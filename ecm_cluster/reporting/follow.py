"""Following a run until it has ended: what ``submit --wait`` and the demo show."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from ..backends import choose
from ..console import cli, output, program
from ..rundir.run import Run
from . import results
from . import state as states

ENDED = ("done", "failed", "stopped")
PATIENCE = 5.0  # seconds a run must look ended before it counts: states of a run and of its job change one by one


def follow(run: Run, look: Callable[[states.RunState], None] | None = None) -> int:
    """Print each change of a run's state, and its progress, until it has ended.

    Args:
        look: Called with each state as it is seen, about every second.

    Returns:
        0 if it is done, 1 otherwise.
    """
    shown, since = "", None
    interval = choose.of(run).poll_seconds
    while True:
        state = states.fold([run])[0]
        if look is not None:
            look(state)
        shown = _show(state, shown)
        since = (since or time.monotonic()) if state.state in ENDED else None
        if state.state == "done" or (since is not None and time.monotonic() - since > PATIENCE):
            break
        time.sleep(interval)
    if state.state != "done" and state.next:
        print(f"next: {state.next}")
    found = results.rows(run)
    if found:
        print(results.table_of(found))
    return cli.EXIT_OK if state.state == "done" else cli.EXIT_FAILED


def _show(state: states.RunState, shown: str) -> str:
    line = f"{state.state}: {state.reason}"
    if state.state == "running" and state.iterations:
        pace = f", {state.seconds_per_iteration:.2f} s/iteration" if state.seconds_per_iteration else ""
        loss = f", loss {state.loss:.3f}" if state.loss is not None else ""
        line += f"; attempt {state.attempt}, iteration {state.iteration}/{state.iterations}{loss}{pace}"
    if sys.stdout.isatty():
        print(f"\r\033[K{output.printable(program.one_line(line))}", end="" if state.state not in ENDED else "\n",
              flush=True, file=output.bare(sys.stdout))
        return line
    # in a log: a line when something changes, progress every tenth of the way
    key = f"{state.state}:{state.attempt}:{state.reason if state.state != 'evaluating' else ''}"
    if state.iterations and state.iteration is not None:
        key += f":{10 * state.iteration // state.iterations}"
    if key != shown:
        print(line, flush=True)
    return key


