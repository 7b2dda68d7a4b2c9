"""Which class each label of a dataset means, as mmdet makes it of the config and the annotation file.

Source: mmdet 2.x ``datasets/custom.py`` (``get_classes``), ``coco.py``, ``lvis.py`` and ``objects365.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Tuple

from ..annotations.layout import AnnotationSummary
from ..base.errors import UserError
from ..mmclasses.class_names import names_of
from ..mmclasses.datasets import Leaf

COCO_TYPES = ("CocoDataset", "CityscapesDataset", "DeepFashionDataset", "Objects365V1Dataset", "Objects365V2Dataset",
              "OccludedSeparatedCocoDataset")
LVIS_TYPES = ("LVISV1Dataset", "LVISV05Dataset", "LVISDataset")
ALIKE = 0.9  # of the names: a file of LVIS spells some in another way than mmdet
Names = Optional[Tuple[str, ...]]


def rule(kind: str) -> str | None:
    """The rule that scores a type of dataset: ``coco``, ``lvis``, or its own (None)."""
    if kind in LVIS_TYPES or kind == "LVISFromFile":
        return "lvis"
    return "coco" if kind in COCO_TYPES[:-1] else None


def configured(leaf: Leaf) -> Names:
    """The classes that the config gives, or that the type of dataset has; None: not known.

    Raises:
        UserError: ``classes`` is neither names nor a file of names.
    """
    given = leaf.cfg.get("classes")
    if given is None:
        return names_of(leaf.type)
    if isinstance(given, str):
        try:
            names = tuple(Path(given).expanduser().read_text(encoding="utf-8").splitlines())
        except (OSError, ValueError) as error:
            raise UserError(f"{leaf.name('classes')}: cannot read {given} ({error}); expected a list of names, or a "
                            "file with one on each line") from None
        if not names:
            raise UserError(f"{leaf.name('classes')}: {given} is empty; expected the name of a class on each line")
        given = names
    if isinstance(given, (list, tuple)) and given and all(isinstance(name, str) for name in given):
        return tuple(given)
    raise UserError(f"invalid {leaf.name('classes')}: expected a list of names, or a file with one on each line (a "
                    "tuple of one name needs a comma)")


def of_leaf(leaf: Leaf, summary: AnnotationSummary, said: str) -> Names:
    """The name of each label; None where the dataset is the user's own.

    Raises:
        UserError: Labels and names would diverge, which mmdet does not report.
    """
    listed = [(c["id"], c["name"]) for c in summary.categories]
    if leaf.type.startswith("Objects365V1"):
        listed = sorted(listed)
    there = tuple(name for _, name in listed)
    if leaf.type == "LVISFromFile":
        if leaf.cfg.get("classes") is not None:
            raise UserError(f"config: {leaf.name('classes')} is set, and LVISFromFile takes all categories of its file "
                            "in their order; remove it")
        return there
    wanted = configured(leaf)
    if wanted is None or leaf.type not in COCO_TYPES + LVIS_TYPES:
        return None
    given = leaf.cfg.get("classes") is not None
    whose = f"{leaf.name('classes')} names" if given else f"{leaf.type} has"
    if leaf.type in LVIS_TYPES:
        if wanted == there or (not given and len(wanted) == len(there)
                               and len(set(wanted) & set(there)) > ALIKE * len(there)):
            return there
        raise UserError(f"{said} has {len(there)} categories, and {whose} {len(wanted)} classes; {leaf.type} assigns "
                        "them in the file's order: set the type to LVISFromFile (without classes), which takes names "
                        "and labels from the file")
    missing = [name for name in wanted if name not in there]
    if missing and leaf.type.startswith("Objects365"):  # whose files and names are spelled differently
        return None
    if missing:
        raise UserError(f"{said} lacks {len(missing)} of the {len(wanted)} classes that {whose} (the first is "
                        f"{missing[0]!r}), and mmdet would give its labels to others: set {leaf.name('classes')} to "
                        "names of its categories")
    labels = tuple(name for name in there if name in wanted)
    for name in wanted:
        if labels.count(name) != wanted.count(name):
            raise UserError(f"{said} has {labels.count(name)} categories that are called {name!r}, and {whose} "
                            f"{wanted.count(name)}; mmdet makes a label of each category: give each category a name of "
                            f"its own, or set {leaf.name('classes')} to a list with the name so many times")
    return labels


def difference(key: str, names: tuple[str, ...], train: tuple[str, ...]) -> str:
    """The message for a dataset whose labels mean other classes than those of training."""
    if len(names) != len(train):
        difference = f"has {len(names)} classes, and training has {len(train)}"
    else:
        label = next(i for i, (a, b) in enumerate(zip(names, train)) if a != b)
        difference = f"has other categories: label {label} is {names[label]!r}, and in training {train[label]!r}"
    return f"{key}: {difference}; use one dataset for both, with the same classes in the same order"
