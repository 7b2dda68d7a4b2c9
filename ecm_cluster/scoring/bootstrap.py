"""Confidence intervals of the figures: how much they would move with other images of the same kind.

Images are drawn with replacement, as many as there are, and every figure is computed again. Matches are not
searched again: an image drawn twice counts twice (:mod:`.matches`), so a replicate that draws every image once has
the very figures of the set. The standard deviation of the replicates is the error, and the interval the figure with
so many errors to either side as the normal distribution asks for (the standard interval of Efron and Tibshirani, An
Introduction to the Bootstrap, 1993, chapters 6 and 13).

It is not the interval between the replicates' quantiles, since on LVIS they are off to one side: a class of few
images is absent from many replicates and over-represented in the others, and then its precision is higher. ``bias``
says by how much; it can be more than the error, and the quantiles then leave the figure itself out.

An interval is about the choice of images alone, not about another training run. With few images of a kind (APr, APc)
the replicates hold fewer of its classes than other sets of images would, and the interval is rather too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from ..base.errors import UserError
from . import metrics
from .matches import Accumulator, Matches

REPLICATES = 200  # enough for a standard error: Efron and Tibshirani, chapter 6


def bootstrap(matches: Matches, categories: Sequence[Mapping[str, Any]], max_dets: int = 300,
              replicates: int = REPLICATES, seed: int = 0, confidence: float = 0.95,
              on_replicate: Callable[[int, int], None] | None = None) -> dict[str, dict[str, Any]]:
    """A confidence interval for every metric.

    Args:
        matches: of one kind of overlap.
        seed: of the draws; equal seeds draw equal images.
        confidence: the share of sets whose interval is to hold what the figure is on average.
        on_replicate: called with (replicates done, replicates in all).

    Returns:
        For each figure ``low`` and ``high``, both in [0, 1], ``error`` (the standard deviation of the replicates),
        ``bias`` (their mean less the figure) and ``replicates`` (those in which it is defined); None instead of
        numbers where fewer than two are, or the figure is not.
    """
    check(replicates, confidence)
    accumulate = Accumulator(matches)

    def figures(times: np.ndarray | None = None) -> dict[str, float]:
        return metrics.figures(metrics.of_lvis(*accumulate(times), categories, max_dets))

    point, rows = figures(), []
    for done, times in enumerate(draws(matches.images, replicates, seed)):
        rows.append(list(figures(times).values()))
        if on_replicate:
            on_replicate(done + 1, replicates)
    return {name: _interval(point[name], values, confidence) for name, values in zip(point, np.array(rows).T)}


def draws(images: int, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """How often each image counts in each replicate, (images,); equal arguments draw equal images."""
    rng = np.random.default_rng(seed)
    for _ in range(replicates):
        yield np.bincount(rng.integers(0, images, images), minlength=images)


def replicated(matches: Matches, categories: Sequence[Mapping[str, Any]], replicates: int, seed: int,
               ) -> dict[str, list[float | None]]:
    """The figures that ``compare`` shows in each replicate, None where undefined.

    For the same images, number and seed the draws are the same, so the differences between two models, replicate by
    replicate, are those of a paired bootstrap (Koehn, Statistical Significance Tests for Machine Translation
    Evaluation, EMNLP 2004).
    """
    check(replicates)
    accumulate, found = Accumulator(matches, areas=1), []
    for times in draws(matches.images, replicates, seed):
        found.append(metrics.figures(metrics.of_lvis(*accumulate(times), categories, metrics.MAX_DETS),
                                     metrics.COMPARE))
    return {name: [None if one[name] == -1 else one[name] for one in found] for name in found[0]}


def check(replicates: int, confidence: float = 0.95) -> None:
    """Reject what gives no interval."""
    if replicates < 2:
        raise UserError(f"bootstrap: invalid value {replicates}; expected 2 replicates or more, such as "
                        f"{REPLICATES}")
    if not 0 < confidence < 1:
        raise UserError(f"confidence: invalid value {confidence}; expected a number between 0 and 1, such as 0.95")


def _interval(point: float, values: np.ndarray, confidence: float) -> dict[str, Any]:
    defined = values[values > -1]
    if point == -1 or len(defined) < 2:
        return {"low": None, "high": None, "error": None, "bias": None, "replicates": len(defined)}
    error = float(np.std(defined, ddof=1))
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * error
    return {"low": max(point - reach, 0.0), "high": min(point + reach, 1.0), "error": error,
            "bias": float(np.mean(defined)) - point, "replicates": len(defined)}
