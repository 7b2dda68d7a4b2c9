"""A group as ``status`` shows it: one line a run, with what is varied in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..reporting import state as states
from ..reporting.run_state import RunState
from ..reporting.tables import UNDEFINED, aligned, percent
from .cells import short_names
from .group import Group

NOT_SUBMITTED = "not submitted"


def rows(group: Group) -> list[tuple[Mapping[str, str], str, RunState | None]]:
    """(settings, name, state) of each run; no state where it is not submitted yet."""
    members = group.members()
    folded = iter(states.fold([run for _, run in members if run is not None]))
    found = [(cell, next(folded) if run is not None else None) for cell, run in members]
    return [(cell.settings, cell.name, None if state is not None and state.state == "submitting" else state)
            for cell, state in found]


def describe(group: Group) -> str:
    """The table, and what to do about runs that are missing."""
    found = rows(group)
    names = short_names(group.varied)
    lines = [[name, *(settings.get(key, UNDEFINED) for key in names), state.state if state else NOT_SUBMITTED,
              _progress(state), _headline(state)] for settings, name, state in found]
    said = [f"group {group.path}: {len(found)} runs, " + ", ".join(
        f"{sum(line[-3] == word for line in lines)} {word}" for word in dict.fromkeys(line[-3] for line in lines))]
    said.append(aligned(["run", *names.values(), "state", "iteration", "mask AP"], lines, left=2 + len(names)))
    for _, name, state in found:
        if state is not None and state.state in ("failed", "stopped", "unreadable", "unknown"):
            said.append(f"{name}: {state.reason}")
    if any(state is None for _, _, state in found):
        said.append("the same `submit` command submits what is missing")
    return "\n".join(said)


def as_dict(group: Group) -> dict[str, Any]:
    """For ``--json``."""
    return {"group": group.name, "path": str(group.path), "varied": group.varied,
            "runs": [{"settings": dict(settings), **(state.as_dict() if state else
                                                     {"run": name, "state": NOT_SUBMITTED})}
                     for settings, name, state in rows(group)]}


def _progress(state: RunState | None) -> str:
    if state is None or state.iteration is None:
        return ""
    return f"{state.iteration}/{state.iterations}" if state.iterations else str(state.iteration)


def _headline(state: RunState | None) -> str:
    """Mask AP in percent; box AP, named so, where there are no masks."""
    figures = state.evaluation if state else {}
    if figures.get("segm_AP") is None and figures.get("bbox_AP") is not None:
        return f"box {percent(figures['bbox_AP'])}"
    return "" if figures.get("segm_AP") is None else percent(figures["segm_AP"])
