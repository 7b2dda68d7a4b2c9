"""The class names that mmdet's datasets have where a config gives none, without importing mmdet.

``class_names.txt`` beside this file holds them, a line for each dataset: its type and its classes, with tabs between
them. ``python -m tools.class_names`` makes it, and a test holds it equal to the installed mmdet.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

TABLE = Path(__file__).with_name("class_names.txt")


@lru_cache(maxsize=None)
def names_of(kind: str) -> tuple[str, ...] | None:
    """The classes of a type of dataset; None where it has none of its own, or is not mmdet's."""
    with open(TABLE, encoding="utf-8") as lines:
        for line in lines:
            name, *classes = line.rstrip("\n").split("\t")
            if name == kind:
                return tuple(classes)
    return None
