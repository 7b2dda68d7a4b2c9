"""Constants of the evaluation, and the counts that panoptic quality is made of."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

OFFSET, VOID = 256 ** 3, 0


def _none() -> SimpleNamespace:  # by name: counts are sent between processes
    return SimpleNamespace(iou=0.0, tp=0, fp=0, fn=0)


class PQStat:
    """True and false positives, false negatives, and the sum of overlaps, by category."""

    def __init__(self) -> None:
        self.pq_per_cat: dict[int, Any] = defaultdict(_none)

    def __getitem__(self, category: int) -> Any:
        return self.pq_per_cat[category]

    def __iadd__(self, other: PQStat) -> PQStat:
        for category, counts in other.pq_per_cat.items():
            for name, value in vars(counts).items():
                setattr(self[category], name, getattr(self[category], name) + value)
        return self

    def pq_average(self, categories: dict[int, Any], isthing: bool | None) -> tuple[dict[str, Any], dict[int, Any]]:
        """Means over the categories that occur (things, stuff, or both for None), and each one's figures."""
        by_class: dict[int, Any] = {}
        counted = []
        for category, info in categories.items():
            if isthing is not None and (info["isthing"] == 1) != isthing:
                continue
            c = self[category]
            found = c.tp + 0.5 * c.fp + 0.5 * c.fn
            by_class[category] = {"pq": c.iou / found if found else 0.0, "sq": c.iou / c.tp if c.tp else 0.0,
                                  "rq": c.tp / found if found else 0.0}
            if c.tp + c.fp + c.fn:
                counted.append(by_class[category])
        means = {name: sum(c[name] for c in counted) / len(counted) if counted else 0.0 for name in ("pq", "sq", "rq")}
        return {**means, "n": len(counted)}, by_class
