"""What is scored, as mmdet builds it from ``data.test``: the datasets, and what has to be known about them afterwards.

Every dataset is in test mode, those inside a ``ConcatDataset`` too: mmdet's test.py sets that on the outer dict alone,
where it has no effect, so images without objects would be dropped.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from typing import Any

from mmcv import Config
from mmdet.datasets import CocoDataset, build_dataset, replace_ImageToTensor
from mmdet.datasets.cityscapes import CityscapesDataset
from mmdet.datasets.lvis import LVISV05Dataset

from ...base.errors import UserError
from ...mmconfig import config
from ...scoring.parts import COCO, LVIS, OWN, ScoredDataset, ScoredSet

COCO_METHODS = ("evaluate", "evaluate_det_segm", "format_results", "results2json", "_det2json", "_segm2json")


def build(cfg: Config) -> tuple[Any, int, int]:
    """The dataset of ``cfg.data.test`` in test mode, images a batch, and DataLoader workers.

    The numbers come from where mmdet 2.x has them: ``data.test_dataloader``, or ``data.test`` (batch) and
    ``data`` (workers); their defaults are 1 and 2.
    """
    data = cfg.data
    if data.get("test") is None:
        raise UserError("data.test: the config has none, and scoring needs one")
    test, loader = copy.deepcopy(data["test"]), data.get("test_dataloader") or {}
    batches = [one.pop("samples_per_gpu") for one in config.nested(test) if "samples_per_gpu" in one]
    batch = loader.get("samples_per_gpu", max(batches, default=1))
    for one in _members(test):
        one["test_mode"] = True
    for one in config.nested(test):
        if batch > 1 and "pipeline" in one:  # ImageToTensor makes tensors that cannot be padded to one size
            one["pipeline"] = replace_ImageToTensor(one["pipeline"])
    return build_dataset(test), batch, loader.get("workers_per_gpu", data.get("workers_per_gpu", 2))


def _members(test: Any) -> Iterator[Any]:
    """The settings of each dataset."""
    if isinstance(test, (list, tuple)):
        for one in test:
            yield from _members(one)
    elif "datasets" in test or "dataset" in test:
        yield from _members(test.get("datasets", test.get("dataset")))
    else:
        yield test


def members(dataset: Any) -> Iterator[Any]:
    """The datasets that a ``ConcatDataset`` is made of, in the order of their images; any other dataset, itself."""
    if hasattr(dataset, "datasets") and hasattr(dataset, "cumulative_sizes"):
        for one in dataset.datasets:
            yield from members(one)
    else:
        yield dataset


def describe(dataset: Any) -> ScoredSet:
    """What scoring needs to know of a dataset in test mode.

    Raises:
        UserError: Its classes and its annotation file do not go together.
    """
    parts = [_part(one) for one in members(dataset)]
    by_position = len(parts) > 1 or not parts[0].numbered or len(set(parts[0].images)) < len(parts[0].images)
    return ScoredSet(parts, by_position, not getattr(dataset, "separate_eval", True))


def _part(dataset: Any) -> ScoredDataset:
    if not (hasattr(dataset, "evaluate") and hasattr(dataset, "data_infos")):
        raise UserError(f"data.test.type: {type(dataset).__name__} cannot be scored: it has no `evaluate`; use the "
                        "dataset itself")
    kind, classes = rule(type(dataset)), dataset.CLASSES
    categories = list(dataset.cat_ids) if kind != OWN else list(range(len(classes or ())))
    if classes is not None and len(classes) != len(categories):
        raise UserError(f"data.test: {dataset.ann_file} has {len(categories)} categories, the dataset names "
                        f"{len(classes)} classes; set data.test.classes to the file's")
    images = getattr(dataset, "img_ids", None) if kind != OWN else range(len(dataset))
    if images is None or len(images) != len(dataset):  # some drop images after they have listed the ids
        images = [info["id"] for info in dataset.data_infos]
    return ScoredDataset(kind, type(dataset).__name__, os.path.abspath(dataset.ann_file), list(images), categories,
                None if classes is None else list(classes))


def rule(kind: Any) -> str:
    """The rule of a class of datasets (the class, not its name); one with an evaluation of its own keeps it.

    Cityscapes' own metric is scored by its own ``evaluate``, and ``bbox`` and ``segm`` by COCO's, as there.
    """
    if issubclass(kind, LVISV05Dataset) and kind.evaluate is LVISV05Dataset.evaluate:
        return LVIS
    for stock in (CocoDataset, CityscapesDataset):
        if issubclass(kind, stock) and all(getattr(kind, n, None) is getattr(stock, n, None) for n in COCO_METHODS):
            return COCO
    return OWN
