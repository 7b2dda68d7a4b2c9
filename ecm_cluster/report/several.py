"""What the page about several runs shows: the same as for one, beside each other."""

from __future__ import annotations

from typing import Any

from .subject import Subject


def values(found: list[Subject]) -> dict[str, Any]:
    """The variables of the template."""
    return {"runs": found}
