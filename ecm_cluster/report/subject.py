"""Everything that the page says of one run, read from its directory alone; what is damaged is noted and left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from ..attempts import endings
from ..base.errors import UserError
from ..chain import chain
from ..diff import facts
from ..reporting import state as states
from ..reporting.run_state import RunState, only_stopped
from ..reporting.tolerant import TolerantRun
from ..rundir.run import Run
from . import attempts, error_analysis, provenance, scores, setup, time_use
from .drawing import curves
from .drawing.curves import Training
from .error_analysis import Analysis
from .scores import Scores

Value = TypeVar("Value")
NO_TRAINING = Training(curves.Curve("loss", ()), curves.Curve("lr", ()), (), (), 0)


@dataclass(frozen=True)
class Subject:
    """One run on a page.

    Attributes:
        name: As the page calls it; two runs of one name are distinguished.
        base: The config that it was made from, and what differs.
        changed: What changed from attempt to attempt, a line each.
        damage: What could not be read, a line each.
    """

    name: str
    run: Run
    state: RunState
    training: Training
    scores: Scores
    analysis: Analysis | None
    time: time_use.TimeUse | None
    attempts: list[attempts.Attempt]
    events: list[dict[str, str]]
    commits: str
    model: list[setup.SetupLine]
    batch: list[setup.SetupLine]
    options: list[setup.SetupLine]
    job: list[setup.SetupLine]
    base: tuple[str, list[setup.SetupLine]] | None
    provenance: list[tuple[str, list[setup.SetupLine]]]
    packages: list[setup.SetupLine]
    changed: list[str]
    submitted: str
    damage: list[str]


def state_of(run: Run) -> RunState:
    """The state of a run; of one that has ended for good also while the job lives that makes this page at its end."""
    (state,) = states.fold([run])
    end = endings.newest_end(run)
    if state.state == "running" and end is not None:
        decision = endings.decide(run)
        if decision.action == "stop":
            state.state = "stopped" if only_stopped(endings.ending(end)) else "failed"
            state.reason, state.next = decision.reason, chain.resume_line(run)
    return state


def read(given: Run, name: str) -> Subject:
    """
    Raises:
        UserError: It is not a readable run.
    """
    run = TolerantRun(given.path)
    spec = run.spec
    state = state_of(run)

    def part(make: Callable[..., Value], default: Value, *args: Any) -> Value:
        try:
            return make(*args)
        except (UserError, OSError) as error:
            run.note(error)
            return default

    scored = part(scores.of, Scores(()), run)
    main = scored.main
    return Subject(
        name, run, state, part(curves.of, NO_TRAINING, run), scored,
        part(error_analysis.of, None, main) if main else None, part(time_use.of, None, run),
        part(attempts.rows, [], run), part(attempts.events, [], run), part(attempts.commits, "", run),
        part(setup.model, [], run), part(setup.batch, [], spec), part(setup.options, [], run), part(setup.job, [], run),
        part(setup.against_base, None, run), part(provenance.of, [], run, main), part(provenance.packages, [], run),
        part(facts.within, [], run), attempts.clock(spec.submitted), list(run.damage))
