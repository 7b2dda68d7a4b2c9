"""The metrics: one list, computed from precision and recall as every scorer gives them, term by term as in lvis-api.

A metric is one entry of :data:`METRICS`; tables, CSV, ``status``, ``compare`` and the bootstrap take it from there.
numpy is imported inside the functions: tables are printed on login nodes without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    import numpy as np

MAX_DETS = 300  # LVIS's limit of detections per image
FIXED_DETS = 10_000  # detections of each class over the whole set, of which Fixed AP is taken
UNLIMITED = 10**9  # detections per image
FIXED = "-fixed"  # behind the kind of overlap, where figures are of Fixed AP
AREAS = ("", "s", "m", "l")  # all, small (below 32 x 32 pixels), medium, large (above 96 x 96)
AREA_RANGES = ((0.0, 1e5**2), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e5**2))  # pycocotools' own
FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}  # in at most 10 training images, at most 100, more
# kinds of overlap in words, in the order in which they are shown: as LVIS does
KINDS = {"segm": "mask", "bbox": "box", f"segm{FIXED}": "fixed mask", f"bbox{FIXED}": "fixed box"}
# what is being scored, of how many categories: (iou type, categories done, categories in all)
Progress = Callable[[str, int, int], None]
# where a metric is shown besides metrics.json and CSV files: in the table of one evaluation, in a line for each of
# several evaluations and in `status`, in `compare`
TABLE, LINE, COMPARE = "table", "line", "compare"


@dataclass(frozen=True)
class Curves:
    """What a scorer computes for one kind of overlap.

    T thresholds of overlap, R recalls, K categories by ascending id, areas as in :data:`AREAS`; -1 where undefined.

    Attributes:
        precision: (T, R, K, 4).
        recalls: (T, K, 4) for each limit of detections, ascending; ``precision`` is at the last.
        thresholds: (T,).
        groups: Positions of the rare, common and frequent categories; empty without frequencies.
        usual: Precision at the limit where AP is taken, if that is not the last.
    """

    precision: np.ndarray
    recalls: Mapping[int, np.ndarray]
    thresholds: np.ndarray
    groups: Mapping[str, Sequence[int]]
    usual: np.ndarray | None = None

    @property
    def limit(self) -> int:
        return max(self.recalls)

    def at(self, overlap: float) -> np.ndarray:
        """Precision over all areas at one threshold; empty if it is not among them.

        np.linspace gives 0.9 as 0.8999999999999999.
        """
        return self.of_area("")[abs(self.thresholds - overlap) < 1e-9]

    def of_area(self, name: str) -> np.ndarray:
        return self.precision[..., AREAS.index(name)]

    def of_frequency(self, name: str) -> np.ndarray:
        return self.of_area("")[:, :, list(self.groups.get(name, ()))]

    def recall(self, area: str = "") -> np.ndarray:
        return self.recalls[self.limit][..., AREAS.index(area)]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: As in ``metrics.json``; ``{n}`` is the limit of detections.
        values: What it is the mean of, over everything that is defined.
        shown: ``TABLE``, ``LINE``, ``COMPARE``, or several of them.
        frequency: Of a mean over classes: of these; empty: of all. None: not such a mean.
    """

    name: str
    values: Callable[[Curves], np.ndarray]
    shown: tuple[str, ...] = ()
    frequency: str | None = None


METRICS = (
    Metric("AP", lambda c: c.of_area("") if c.usual is None else c.usual[..., 0], (TABLE, LINE, COMPARE), ""),
    Metric("AP50", lambda c: c.at(0.5), (TABLE, LINE)),
    Metric("AP75", lambda c: c.at(0.75), (TABLE,)),
    Metric("APs", lambda c: c.of_area("s"), (TABLE,)),
    Metric("APm", lambda c: c.of_area("m"), (TABLE,)),
    Metric("APl", lambda c: c.of_area("l"), (TABLE,)),
    Metric("APr", lambda c: c.of_frequency("r"), (TABLE, LINE, COMPARE), "r"),
    Metric("APc", lambda c: c.of_frequency("c"), (TABLE, LINE, COMPARE), "c"),
    Metric("APf", lambda c: c.of_frequency("f"), (TABLE, LINE, COMPARE), "f"),
    Metric("AR@{n}", lambda c: c.recall(), (TABLE,)),
    Metric("ARs@{n}", lambda c: c.recall("s")),
    Metric("ARm@{n}", lambda c: c.recall("m")),
    Metric("ARl@{n}", lambda c: c.recall("l")),
)


def names(where: str, limit: int | None = None) -> list[str]:
    """Names of the metrics that are shown at a place; without a limit only those that have none in their name."""
    return [metric.name.format(n=limit) for metric in METRICS
            if where in metric.shown and (limit is not None or "{n}" not in metric.name)]


def plain_kind(kind: str) -> str:
    """``segm`` of ``segm@0`` (one of several datasets), ``segm-fixed`` (Fixed AP), and ``segm`` itself."""
    return kind.partition("@")[0].replace(FIXED, "")


def kinds(figures: Iterable[str]) -> list[str]:
    """Kinds of overlap in the order in which they are shown; of several data sets (``segm@0``) one after the other."""
    found = list(dict.fromkeys(figures))
    order, parts = [*KINDS], list(dict.fromkeys(kind.partition("@")[2] for kind in found))

    def place(kind: str) -> tuple[int, int]:
        base, _, part = kind.partition("@")
        return parts.index(part), order.index(base) if base in order else len(order)

    return sorted(found, key=place)


def in_words(kind: str, name: str = "") -> str:
    """A metric as every table names it: ``mask AP`` for ``segm_AP``."""
    base, at, part = kind.partition("@")
    return f"{KINDS.get(base, base)}{at}{part} {name}".rstrip()


def figures(curves: Curves, where: str | None = None) -> dict[str, float]:
    """Every metric by name, and recall at the other limits; fractions of one, -1 where undefined.

    Args:
        where: Only the metrics that are shown at this place.
    """
    if where is not None:
        return {metric.name: _mean_defined(metric.values(curves)) for metric in METRICS if where in metric.shown}
    found = {metric.name.format(n=curves.limit): _mean_defined(metric.values(curves)) for metric in METRICS}
    return {**found, **{f"AR@{limit}": _mean_defined(recall[..., 0]) for limit, recall in curves.recalls.items()}}


def of_lvis(precision: np.ndarray, recall: np.ndarray, categories: Sequence[Mapping[str, Any]], max_dets: int,
            ) -> Curves:
    """The arrays of lvis-api's ``accumulate``, or equal ones."""
    ordered = sorted(categories, key=lambda c: c["id"])
    groups = {name: [at for at, c in enumerate(ordered) if c["frequency"] == name] for name in FREQUENCIES}
    return Curves(precision, {max_dets: recall}, iou_thresholds(), groups)


def per_class(precision: np.ndarray) -> np.ndarray:
    """(K,) AP of each category over all areas, -1 where undefined."""
    import numpy as np

    return np.mean(np.ascontiguousarray(precision[..., 0].reshape(-1, precision.shape[2]).T), axis=1)


def iou_thresholds() -> np.ndarray:
    """(10,) 0.5, 0.55, … 0.95, the very doubles that lvis-api compares with."""
    import numpy as np

    return np.linspace(0.5, 0.95, 10)


def recall_thresholds() -> np.ndarray:
    """(101,) 0, 0.01, … 1, the very doubles that lvis-api compares with."""
    import numpy as np

    return np.linspace(0.0, 1.0, 101)


def _mean_defined(values: np.ndarray) -> float:
    """Mean over what is defined (above -1), or -1, summed in the order of lvis-api.

    A category is defined at all thresholds and recalls or at none, so whole categories are taken, which is much
    faster than testing each number. They are the last axis.
    """
    import numpy as np

    if not values.size:
        return -1.0
    defined = values[(0,) * (values.ndim - 1)] > -1
    return float(np.mean(np.compress(defined, values, axis=-1).ravel())) if defined.any() else -1.0
