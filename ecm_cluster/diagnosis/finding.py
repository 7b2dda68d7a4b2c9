"""The result of a check of the doctor: one line with a stable id, its state, the observation and the remedy."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

OK, WARNING, FAILS, NOT_ASKED = STATES = ("ok", "warning", "fails", "not asked")
WIDTH = 120  # columns at which the report wraps


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        id: ``group.check`` or ``group.check.object``, the same in every version.
        state: One of :data:`STATES`.
        text: What was observed; for ``not asked``, why it was not.
        remedy: What to do about it; empty if there is nothing to do.
        nodes: The compute nodes that it applies to; empty for checks of this machine.
    """

    id: str
    state: str
    text: str
    remedy: str = ""
    nodes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "nodes": list(self.nodes)}


def ok(name: str, text: str) -> Finding:
    return Finding(name, OK, text)


def warning(name: str, text: str, remedy: str) -> Finding:
    return Finding(name, WARNING, text, remedy)


def fails(name: str, text: str, remedy: str) -> Finding:
    return Finding(name, FAILS, text, remedy)


def not_asked(name: str, text: str) -> Finding:
    return Finding(name, NOT_ASKED, text)


def carried_out(name: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings of a check; an exception becomes a finding and does not prevent the others."""
    try:
        yield from check()
    except Exception as error:
        yield not_asked(name, f"the check itself failed: {type(error).__name__}: {error}")


def merged(found: Iterable[Finding]) -> Iterator[Finding]:
    """Merge equal findings of several nodes."""
    nodes: dict[Finding, list[str]] = {}
    for one in found:
        nodes.setdefault(replace(one, nodes=()), []).extend(one.nodes)
    yield from (replace(one, nodes=tuple(where)) for one, where in nodes.items())


def page(findings: Iterable[Finding]) -> str:
    """The findings as text, with a heading for each group and the remedy below each problem."""
    lines: list[str] = []
    group = ""
    for found in findings:
        first, _, name = found.id.partition(".")
        if first != group:
            lines += [*([""] if lines else []), first]
            group = first
        where = f"{', '.join(found.nodes)}: " if found.nodes else ""
        lines += _wrapped(f"  {found.state:<10}{name}: ", where + found.text)
        if found.remedy:
            lines += _wrapped(f"{'':12}-> ", found.remedy)
    return "\n".join(lines)


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), WIDTH, initial_indent=head, subsequent_indent=" " * 15,
                         break_long_words=False, break_on_hyphens=False) or [head]


def summary(findings: Iterable[Finding]) -> str:
    """How many findings of each state there are, in one line."""
    states = [found.state for found in findings]
    return ", ".join(f"{states.count(state)} {state}" for state in STATES if state in states)
