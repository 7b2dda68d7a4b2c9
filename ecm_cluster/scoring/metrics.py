"""From precision and recall arrays to the figures of LVIS, term by term as lvis-api's ``summarize`` has them.

Also what the arrays are taken at: thresholds, recalls, areas. numpy is imported inside the functions, since
:mod:`.scoring` has to import on a login node without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

MAX_DETS = 300  # of an image
AREAS = ("", "s", "m", "l")  # all, small (below 32 x 32 pixels), medium, large (above 96 x 96)
AREA_RANGES = ((0.0, 1e5**2), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e5**2))
FREQUENCIES = ("r", "c", "f")  # in at most 10 training images, at most 100, more


def iou_thresholds() -> np.ndarray:
    """(10,) 0.5, 0.55, … 0.95, the very doubles that lvis-api compares with."""
    import numpy as np

    return np.linspace(0.5, 0.95, 10)


def recall_thresholds() -> np.ndarray:
    """(101,) 0, 0.01, … 1, the very doubles that lvis-api compares with."""
    import numpy as np

    return np.linspace(0.0, 1.0, 101)


def names(max_dets: int) -> list[str]:
    """AP, AP50, AP75, APs, APm, APl, APr, APc, APf, then AR@n, ARs@n, ARm@n, ARl@n for n = ``max_dets``."""
    return ["AP", "AP50", "AP75", *(f"AP{x}" for x in (*AREAS[1:], *FREQUENCIES)),
            *(f"AR{area}@{max_dets}" for area in AREAS)]


def groups(categories: Sequence[dict[str, Any]]) -> list[list[int]]:
    """For rare, common, frequent: positions of their categories among all, by ascending id."""
    ordered = sorted(categories, key=lambda c: c["id"])
    return [[at for at, c in enumerate(ordered) if c["frequency"] == wanted] for wanted in FREQUENCIES]


def summarize(precision: np.ndarray, recall: np.ndarray, by_frequency: Sequence[Sequence[int]],
              max_dets: int) -> dict[str, float]:
    """The figures, fractions of one, -1 where nothing defines them.

    Args:
        precision: (10 thresholds, 101 recalls, K categories, 4 areas), -1 where undefined.
        recall: (10 thresholds, K categories, 4 areas), -1 where undefined.
        by_frequency: what :func:`groups` gives.
        max_dets: names the recalls.
    """
    threshold, whole = iou_thresholds(), precision[..., 0]
    values = [whole, whole[threshold == 0.5], whole[threshold == 0.75],
              *(precision[..., area] for area in (1, 2, 3)), *(whole[:, :, group] for group in by_frequency),
              *(recall[..., area] for area in range(4))]
    return {name: _mean_defined(part) for name, part in zip(names(max_dets), values)}


def per_class(precision: np.ndarray) -> np.ndarray:
    """(K,) AP of each category over all areas, -1 where undefined; arguments as for :func:`summarize`."""
    import numpy as np

    return np.mean(np.ascontiguousarray(precision[..., 0].reshape(-1, precision.shape[2]).T), axis=1)


def _mean_defined(values: np.ndarray) -> float:
    """Mean over what is defined (above -1), or -1, summed in the order of lvis-api.

    A category is defined at all thresholds and recalls or at none, so whole categories are taken, which is much
    faster than to look at each number. They are the last axis.
    """
    import numpy as np

    if not values.size:
        return -1.0
    defined = values[(0,) * (values.ndim - 1)] > -1
    return float(np.mean(np.compress(defined, values, axis=-1).ravel())) if defined.any() else -1.0
