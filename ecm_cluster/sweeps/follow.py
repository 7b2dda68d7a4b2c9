"""Following the runs of a group until all of them have ended, for ``--wait``."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..backends import choose
from ..console import cli
from ..reporting import state as states
from ..reporting.run_state import ENDED, PATIENCE
from ..rundir.run import Run


def follow(runs: Sequence[Run]) -> int:
    """Print each change of a run's state until all have ended.

    Returns:
        0 if all of them are done, 1 otherwise.
    """
    shown: dict[str, str] = {}
    since = None
    while True:
        folded = states.fold(runs)
        for state in folded:
            line = f"{state.run}: {state.state}" + (f": {state.reason}" if state.state in ENDED else "")
            if shown.get(state.run) != line:
                cli.say(line)
            shown[state.run] = line
        ended = all(state.state in ENDED for state in folded)
        since = (since or time.monotonic()) if ended else None
        if all(state.state == "done" for state in folded) or (since and time.monotonic() - since > PATIENCE):
            return cli.EXIT_OK if all(state.state == "done" for state in folded) else cli.EXIT_FAILED
        time.sleep(max(choose.of(run).poll_seconds for run in runs) if runs else 0)
