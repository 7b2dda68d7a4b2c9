"""The scorers: one table, from which ``--vary scorer=`` and :mod:`.scoring` take them.

A scorer is a function in a module of its own, imported when it scores, since it needs numpy and a library.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import util
from typing import Any, Callable, Dict, Optional, Sequence

from ..base.errors import UserError
from .detections import Detections
from .metrics import Curves, Progress
from .parts import COCO, LVIS

# (annotation document, detections, iou types, limits of detections, thresholds of overlap (empty: the rule's own),
# progress) -> what the metrics are computed from, for each iou type
Score = Callable[[Dict[str, Any], Detections, Sequence[str], Sequence[int], Sequence[float], Optional[Progress]],
                 Dict[str, Curves]]


@dataclass(frozen=True)
class Scorer:
    """One scorer.

    Attributes:
        rule: The datasets it is for: those scored by ``LVIS``'s rule, or by ``COCO``'s.
        load: Imports it.
    """

    rule: str
    load: Callable[[], Score]


def _hotcoco() -> Score:
    require_hotcoco("scorer")
    from . import hotcoco

    return hotcoco.score


def _lvis() -> Score:
    from . import lvis

    return lvis.score


def _coco() -> Score:
    from . import coco

    return coco.score


SCORERS = {"hotcoco": Scorer(LVIS, _hotcoco), "lvis": Scorer(LVIS, _lvis), "coco": Scorer(COCO, _coco)}


def of_rule(rule: str) -> list[str]:
    """Names of the scorers of a rule, the default first."""
    return [name for name, scorer in SCORERS.items() if scorer.rule == rule]


def default(rule: str) -> str:
    """The first scorer of a rule; lvis-api where hotcoco cannot be installed, on Python below 3.10."""
    return "lvis" if rule == LVIS and not has_hotcoco() else of_rule(rule)[0]


def has_hotcoco() -> bool:
    return util.find_spec("hotcoco") is not None


def require_hotcoco(what: str) -> None:
    """Refuse what hotcoco is needed for where it is not installed."""
    if not has_hotcoco():
        raise UserError(f"{what}: hotcoco is not installed here; use Python 3.10 or newer, or leave {what} out")
