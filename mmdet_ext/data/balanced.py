"""mmdet's ``ClassBalancedDataset`` with its repeat factors computed from columns: the same figures, at once.

mmdet asks for the categories of one image after the other, twice. Where the dataset inside, through any
``RepeatDataset`` and ``ConcatDataset``, reads columns, arrays answer for all images; elsewhere mmdet's code runs.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from mmdet.datasets.builder import DATASETS, build_dataset
from mmdet.datasets.dataset_wrappers import ClassBalancedDataset, ConcatDataset, RepeatDataset

from .datasets import FromColumns


@DATASETS.register_module()
class ClassBalancedFromColumns(ClassBalancedDataset):
    """mmdet's wrapper that repeats images of rare classes.

    Args:
        oversample_thr: share of images below which a class is repeated.
        filter_empty_gt: see mmdet. ``build_dataset`` does not hand it to the stock wrapper, and it is as good as
            left out beside a config here too.
        test_mode: a default for a dataset that is given as a config.
    """

    def __init__(self, dataset: Any, oversample_thr: float, filter_empty_gt: bool = True,
                 test_mode: bool | None = None, **_: Any) -> None:
        if isinstance(dataset, (dict, list, tuple)):
            dataset = build_dataset(dataset, None if test_mode is None else {"test_mode": test_mode})
            filter_empty_gt = True
        found = distinct_categories(dataset)
        if found is None:
            super().__init__(dataset, oversample_thr, filter_empty_gt)
            return
        self.dataset, self.oversample_thr, self.filter_empty_gt = dataset, oversample_thr, filter_empty_gt
        self.CLASSES, self.PALETTE = dataset.CLASSES, getattr(dataset, "PALETTE", None)
        sizes, places, table = found
        if not filter_empty_gt and not sizes.all():  # an image without objects is of the class of the background
            background = np.flatnonzero(table == len(self.CLASSES))  # which mmdet counts with one of that id
            places = np.insert(places, np.cumsum(sizes)[sizes == 0], background[0] if len(background) else len(table))
            sizes = np.maximum(sizes, 1)
        times = np.ceil(repeat_factors(sizes, places, oversample_thr)).astype(np.int64)
        self.repeat_indices = np.repeat(np.arange(len(times)), times).tolist()
        flags: Any = np.repeat(dataset.flag, times) if hasattr(dataset, "flag") else []
        self.flag = np.asarray(flags, dtype=np.uint8)


def repeat_factors(sizes: np.ndarray, places: np.ndarray, threshold: float) -> np.ndarray:
    """The repeat factor of each image, (N,) float64, equal to mmdet's to the last bit.

    Args:
        sizes: (N,) number of distinct categories of each image.
        places: (sum of sizes,) these categories, image by image, as small numbers.
        threshold: share of images below which a category is repeated.
    """
    images = np.bincount(places).tolist()
    of_category = np.array([max(1.0, math.sqrt(threshold / (n / len(sizes)))) if n else 1.0 for n in images])
    factors = np.ones(len(sizes))
    filled = sizes > 0
    if len(places):
        starts = np.cumsum(sizes) - sizes
        factors[filled] = np.maximum.reduceat(of_category[places], starts[filled])
    return factors


def distinct_categories(dataset: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """What :meth:`FromColumns.distinct_categories` says, for wrappers too."""
    if isinstance(dataset, FromColumns):
        mine = type(dataset).get_cat_ids is FromColumns.get_cat_ids
        return dataset.distinct_categories() if mine else None
    if type(dataset) is RepeatDataset:
        inner = distinct_categories(dataset.dataset)
        times = dataset.times
        return None if inner is None else (np.tile(inner[0], times), np.tile(inner[1], times), inner[2])
    if type(dataset) is ConcatDataset:
        parts = [distinct_categories(part) for part in dataset.datasets]
        known = [part for part in parts if part is not None]
        if len(known) == len(parts):
            table, common = np.unique(np.concatenate([part[2] for part in known]), return_inverse=True)
            begins = np.cumsum([0, *(len(part[2]) for part in known)]).tolist()
            places = [common[part[1] + begin] for part, begin in zip(known, begins)]
            return np.concatenate([part[0] for part in known]), np.concatenate(places), table
    return None
