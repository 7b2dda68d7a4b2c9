"""What each kind of error costs: TIDE's ΔAP at an overlap of 0.5, over all classes and by frequency.

ΔAP is how much AP50 would gain if that one kind were put right: a wrong class or place becomes right, if it is the
best of those that could be so for an object which nothing has found, and else goes, as duplicates and background do;
an object that was missed is no longer asked for. The gains do not add up: errors hide behind each other.

A class's gain stands in the group of the class that gains: where cats are taken for rare lynxes, the cats' class gains
(its objects are found) and the lynxes' too (its false detections are gone).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..scoring import metrics
from .verdicts import CLS, ERRORS, IGNORED, LOC, RIGHT, Verdicts


def delta_ap(verdicts: Verdicts, groups: Mapping[str, Sequence[int]]) -> dict[str, dict[str, float]]:
    """The gains over all classes (``all``) and over each group (of positions of categories) that has objects."""
    base = of_classes(verdicts)
    gains = {name: _without(verdicts, error) - base for name, error in ERRORS.items()}
    gains["Miss"] = _without_missed(verdicts, base) - base
    defined = base >= 0
    found = {}
    for group, members in {"all": range(len(base)), **groups}.items():
        mine = [k for k in members if defined[k]]
        if mine:
            # negative where a class gains false detections by another's repair; TIDE leaves that out of the mean too
            found[group] = {name: max(float(np.mean(gain[mine])), 0.0) for name, gain in gains.items()}
    return found


def of_classes(verdicts: Verdicts) -> np.ndarray:
    """(K,) AP50 of each class, -1 for one without objects."""
    rows = np.flatnonzero(verdicts.verdict != IGNORED)
    return _ap(verdicts.category[rows], verdicts.score[rows], verdicts.verdict[rows] == RIGHT, _wanted(verdicts))


def _without(verdicts: Verdicts, error: int) -> np.ndarray:
    rows = np.flatnonzero((verdicts.verdict != IGNORED) & (verdicts.verdict != error))
    category, right = verdicts.category[rows], verdicts.verdict[rows] == RIGHT
    if error in (CLS, LOC):
        repaired = _best_repairs(verdicts)
        repaired = repaired[verdicts.verdict[repaired] == error]
        rows = np.concatenate([rows, repaired])
        category = np.concatenate([category, verdicts.truth.category[verdicts.target[repaired]]])
        right = np.concatenate([right, np.ones(len(repaired), bool)])
        order = np.argsort(rows, kind="stable")
        rows, category, right = rows[order], category[order], right[order]
    return _ap(category, verdicts.score[rows], right, _wanted(verdicts))


def _without_missed(verdicts: Verdicts, base: np.ndarray) -> np.ndarray:
    missed = verdicts.counts & (verdicts.found_by < 0)
    missed[verdicts.target[_best_repairs(verdicts)]] = False
    wanted = _wanted(verdicts)
    left = wanted - np.bincount(verdicts.truth.category[missed], minlength=len(wanted))
    rows = np.flatnonzero(verdicts.verdict != IGNORED)
    gained = _ap(verdicts.category[rows], verdicts.score[rows], verdicts.verdict[rows] == RIGHT, left)
    return np.where(left > 0, gained, base)


def _best_repairs(verdicts: Verdicts) -> np.ndarray:
    """For each object that nothing has found the best detection whose class or place is wrong about it."""
    rows = np.flatnonzero(np.isin(verdicts.verdict, (CLS, LOC)))
    rows = rows[verdicts.found_by[verdicts.target[rows]] < 0]
    # rows stand by descending score inside an image, and an object has one image
    return rows[np.unique(verdicts.target[rows], return_index=True)[1]]


def _wanted(verdicts: Verdicts) -> np.ndarray:
    return np.bincount(verdicts.truth.category[verdicts.counts], minlength=len(verdicts.truth.categories))


def _ap(category: np.ndarray, score: np.ndarray, right: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(K,) average precision over 101 recalls as in lvis-api, -1 where nothing is wanted."""
    order = np.lexsort((-score, category))
    category, right = category[order], right[order]
    hits = np.flatnonzero(right)
    begin = np.searchsorted(category, np.arange(len(wanted)))
    ends = np.searchsorted(category[hits], np.arange(len(wanted) + 1)).tolist()
    found, thresholds = np.full(len(wanted), -1.0), metrics.recall_thresholds()
    for k, (first, last) in enumerate(zip(ends, ends[1:])):
        if not wanted[k]:
            continue
        so_far = np.arange(1, last - first + 1)
        precision = so_far / (hits[first:last] - begin[k] + 1 + np.spacing(1))
        best = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(so_far / wanted[k], thresholds)
        found[k] = best[at[at < len(best)]].sum() / len(thresholds)
    return found
