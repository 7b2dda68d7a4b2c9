"""Whether two settings of a group differ by more than chance.

The difference is that of the means over the seeds. Two things could have come out otherwise, and each adds its error:

* the images of the test set: a paired bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993; Koehn,
  EMNLP 2004). Images are drawn with replacement, the same for all runs, every figure is computed again, and the error
  is the standard deviation of the difference over the replicates, as in :mod:`ecm_cluster.scoring.bootstrap`;
* the seeds: where both settings have the same ones, the differences seed by seed (the runs share order and
  initialisation), with error ``s / sqrt(n)``; else both errors added (Welch).

Errors add as squares. That counts what images and seeds do only together twice, so it errs on the careful side. The
interval and p are Student's, with the degrees of freedom of the sum (Satterthwaite), since a standard deviation over
three seeds is itself uncertain; without an error over seeds they are the normal distribution's.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Dict, List, Optional

from .settings import GroupSetting, Scored

CONFIDENCE = 0.95
MANY = 1000  # degrees of freedom from which Student's distribution is the normal one
Replicates = Dict[str, Dict[str, List[Optional[float]]]]  # figures in each replicate, by run and figure


@dataclass(frozen=True)
class Difference:
    """Of one figure between a setting and the reference; fractions of one.

    Attributes:
        runs: How many of each setting it is of.
        seeds, images: Its errors; None where they are not known.
        low, high, p: None where neither error is.
    """

    value: float
    runs: int
    seeds: float | None = None
    images: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None


def difference(setting: GroupSetting, reference: GroupSetting, kind: str, name: str, replicates: Replicates,
               ) -> Difference | None:
    """The setting less the reference; None where one has no such figure."""
    ours, theirs = ([one for one in s.runs if one.figure(kind, name) is not None] for s in (setting, reference))
    common = {one.seed for one in ours} & {one.seed for one in theirs} - {""}
    if common:
        ours, theirs = ([one for one in runs if one.seed in common] for runs in (ours, theirs))
    if not ours or not theirs:
        return None
    value = _mean(ours, kind, name) - _mean(theirs, kind, name)
    seeds, freedom = _over_seeds(ours, theirs, kind, name, bool(common))
    images = _over_images(ours, theirs, name, replicates)
    error = math.hypot(seeds or 0.0, images or 0.0)
    count = min(len(ours), len(theirs))
    if seeds is None and images is None or error == 0:
        return Difference(value, count, seeds, images)
    freedom = freedom * (error / seeds) ** 4 if seeds else MANY
    reach = quantile(CONFIDENCE, freedom) * error
    return Difference(value, count, seeds, images, value - reach, value + reach, p_value(value / error, freedom))


def _mean(runs: Sequence[Scored], kind: str, name: str) -> float:
    return statistics.fmean(one.figure(kind, name) or 0.0 for one in runs)


def _over_seeds(ours: Sequence[Scored], theirs: Sequence[Scored], kind: str, name: str, paired: bool,
                ) -> tuple[float | None, float]:
    """The error over seeds and its degrees of freedom; None with a single seed."""
    one, other = ({run.seed or str(at): run.figure(kind, name) or 0.0 for at, run in enumerate(runs)}
                  for runs in (ours, theirs))
    if min(len(one), len(other)) < 2:
        return None, MANY
    if paired:
        return statistics.stdev(one[seed] - other[seed] for seed in one) / math.sqrt(len(one)), len(one) - 1
    parts = [statistics.variance(values.values()) / len(values) for values in (one, other)]
    below = sum(part ** 2 / (len(values) - 1) for part, values in zip(parts, (one, other)))
    return math.sqrt(sum(parts)), sum(parts) ** 2 / below if below else MANY


def _over_images(ours: Sequence[Scored], theirs: Sequence[Scored], name: str, replicates: Replicates) -> float | None:
    """The error over images; None where the replicates of a run are missing."""
    means = []
    for runs in (ours, theirs):
        if any(name not in replicates.get(one.cell.name, {}) for one in runs):
            return None
        means.append([None if None in values else statistics.fmean(v for v in values if v is not None)
                      for values in zip(*(replicates[one.cell.name][name] for one in runs))])
    changes = [a - b for a, b in zip(*means) if a is not None and b is not None]
    return statistics.stdev(changes) if len(changes) > 1 else None


def p_value(t: float, freedom: float) -> float:
    """Two-sided, of Student's t; a fraction of a degree of freedom is dropped, which makes it larger.

    By the finite series of Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    if freedom >= MANY:
        return 2 * NormalDist().cdf(-abs(t))
    degrees = max(1, int(freedom + 1e-9))
    angle = math.atan(abs(t) / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    if degrees % 2:
        term, total = cosine, 0.0
        for k in range((degrees - 1) // 2):
            total, term = total + term, term * cosine ** 2 * (2 * k + 2) / (2 * k + 3)
        inside = (angle + sine * total) * 2 / math.pi
    else:
        term, total = 1.0, 0.0
        for k in range(degrees // 2):
            total, term = total + term, term * cosine ** 2 * (2 * k + 1) / (2 * k + 2)
        inside = sine * total
    return max(0.0, 1.0 - inside)


def quantile(confidence: float, freedom: float) -> float:
    """The t beyond which, to both sides, ``1 - confidence`` lies."""
    low, high = 0.0, 2.0
    while p_value(high, freedom) > 1 - confidence:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(middle, freedom) > 1 - confidence else (low, middle)
    return high
