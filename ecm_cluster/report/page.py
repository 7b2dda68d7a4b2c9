"""The page: one HTML file without scripts, which loads nothing and escapes everything that it shows."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.version import __version__
from ..console.output import printable
from ..rundir.run import Run
from . import several, single, subject

TEMPLATES = Path(__file__).parent / "templates"
MOST_RUNS = 12  # the curves of more cannot be distinguished
# no script, no font, no request: what a damaged or hostile run directory brings in stays text
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def make(runs: Sequence[Run]) -> str:
    """The page about one run, or about several beside each other.

    Raises:
        UserError: jinja2 is missing, there are too many runs, or one of them cannot be read.
    """
    if len(runs) > MOST_RUNS:
        raise UserError(f"RUN: {len(runs)} runs; expected {MOST_RUNS} at most, as more curves cannot be distinguished")
    environment = _environment()
    found = [subject.read(run, name) for run, name in zip(runs, names(runs))]
    values = single.values(found[0]) if len(found) == 1 else several.values(found)
    about = {"policy": POLICY, "version": __version__, "made": time.strftime("%Y-%m-%d %H:%M %Z")}
    return environment.get_template("one.html" if len(found) == 1 else "several.html").render({**values, **about})


def names(runs: Sequence[Run]) -> list[str]:
    """A name for each run; those of one name are numbered."""
    found: list[str] = []
    for run in runs:
        number = sum(other.name == run.name for other in runs[:len(found)])
        found.append(f"{run.name} ({number + 1})" if number else run.name)
    return found


@functools.lru_cache(maxsize=None)
def _environment() -> Any:
    try:
        import jinja2
    except ImportError:
        raise UserError("the page needs jinja2; `pip install 'ecm-cluster[report]'` installs it") from None
    def legible(value: Any) -> Any:
        """Without control characters, and marks that reverse text."""
        return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value

    return jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, finalize=legible,
                              undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
