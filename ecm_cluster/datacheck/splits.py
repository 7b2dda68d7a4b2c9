"""The data of a run, looked at before it is submitted: what training and scoring will need of it.

:func:`check` performs all of these checks. It needs neither torch nor mmdet nor numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..lvis import layout
from ..mmconfig.datasets import Leaf, leaves
from ..staging import pack as packs
from ..staging.planned import Staging

SPLITS = ("train", "test")


@dataclass
class Findings:
    """What is known of the data.

    Attributes:
        summaries: Of the first annotation file of each split that could be read.
        problems: Why training or scoring would fail.
    """

    summaries: dict[str, layout.AnnotationSummary] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check(cfg: Mapping[str, Any], staging: Staging, scored: bool) -> Findings:
    """Check the data of training and, where something is scored, of the test split.

    Args:
        cfg: The resolved config.
        scored: Whether checkpoints will be scored.
    """
    found = Findings()
    for split in SPLITS:
        for leaf in leaves(cfg, split):
            try:
                _check_leaf(leaf, split, staging, found)
            except UserError as error:
                found.problems.append(str(error))
    names = {split: sorted((c["id"], c["name"]) for c in s.categories) for split, s in found.summaries.items()}
    if len(names) == 2 and names["train"] != names["test"]:
        test, train = (found.summaries[split].path for split in ("test", "train"))
        found.problems.append(f"data.test.ann_file: {test} has other categories than {train}; take both from one "
                              "data set")
    return found


def _check_leaf(leaf: Leaf, split: str, staging: Staging, found: Findings) -> None:
    ann_file, prefix = leaf.path("ann_file"), leaf.path("img_prefix")
    if ann_file is None:
        return
    summary = layout.check_annotation_file(ann_file, leaf.name("ann_file"))
    found.summaries.setdefault(split, summary)
    if prefix is not None and not in_pack(staging, summary.first_image, Path(prefix)):
        layout.check_images(summary, prefix, leaf.name("img_prefix"))


def in_pack(staging: Staging, image: Mapping[str, Any], prefix: Path) -> bool:
    """Whether the data root is a pack that holds the image which a plain data root would have below ``prefix``."""
    if not staging.pack:
        return False
    index = packs.read(staging.pack).open_index()
    names = (staging.within_pack(str(prefix / name)) for name in layout.image_names(dict(image)))
    return any(index.find(name) is not None for name in names)
