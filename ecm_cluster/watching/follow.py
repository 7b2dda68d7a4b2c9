"""Following a run or evaluations until they end, for ``--wait`` and the demo."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence

from ..backends import choose, liveness
from ..chain import evaluations
from ..chain.evaluations import Element
from ..console import cli, layout, output, program
from ..reporting import results, trouble
from ..reporting import state as states
from ..reporting.run_state import ENDED, PATIENCE
from ..rundir.run import Run


def follow(run: Run, look: Callable[[states.RunState], None] | None = None) -> int:
    """Print each change of a run's state, and its progress, until it has ended.

    Args:
        look: Called with each state, about every second.

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
    if sys.stdout.isatty():
        # what changes comes first, as a narrow terminal shows no more than the beginning
        parts = [*filter(None, [", ".join([*_progress(state), *_attempt(state)])]), program.one_line(state.reason)]
        line = output.printable(f"{state.state}: {'; '.join(parts)}")
        line = line if state.state in ENDED else layout.clipped(line, (layout.width() or 80) - 1)
        print(f"\r\033[K{output.printable(line)}", end="" if state.state not in ENDED else "\n", flush=True,
              file=output.bare(sys.stdout))
        return line
    key, line = change(state)
    if key != shown:
        print(line, flush=True)
    return key


def change(state: states.RunState) -> tuple[str, str]:
    """For a log, which has one line per change, and one per tenth of the progress: what changes then, and the line."""
    key = f"{state.state}:{state.attempt}:{state.reason if state.state != 'evaluating' else ''}"
    if state.iterations and state.iteration is not None:
        key += f":{10 * state.iteration // state.iterations}"
    progress = ", ".join([*_attempt(state), *_progress(state)])
    return key, f"{state.state}: {state.reason}" + (f"; {progress}" if progress else "")


def _attempt(state: states.RunState) -> list[str]:
    return [f"attempt {state.attempt}"] if _progress(state) else []


def _progress(state: states.RunState) -> list[str]:
    if state.state != "running" or not state.iterations:
        return []
    return [f"iteration {state.iteration}/{state.iterations}",
            *([f"loss {state.loss:.3f}"] if state.loss is not None else []),
            *([f"{state.seconds_per_iteration:.2f} s/iteration"] if state.seconds_per_iteration else [])]


def follow_evaluations(wanted: Mapping[Run, Sequence[Element]]) -> bool:
    """Wait until everything is scored (True), or no job is left to score it; print a line whenever more is done."""
    said, idle = -1, 0
    total = sum(map(len, wanted.values()))
    while True:
        left = {run: [e for e in elements if not evaluations.done(run, e)] for run, elements in wanted.items()}
        done = total - sum(map(len, left.values()))
        if done != said:
            print(f"{done} of {total} scored", file=sys.stderr, flush=True)
            said = done
        if done == total:
            return True
        busy = any(liveness.alive(run) != {} for run, elements in left.items() if elements)
        idle = 0 if busy else idle + 1
        if idle > 2:  # an element ends before its figures can be read
            for line in trouble.of_evaluations(left):
                print(line, file=sys.stderr, flush=True)
            return False
        time.sleep(2.0)
