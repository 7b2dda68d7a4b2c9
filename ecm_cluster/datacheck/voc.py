"""Datasets whose annotations are a list of names and an XML file for each, as Pascal VOC's.

Source: mmdet 2.x ``datasets/xml_style.py``, ``voc.py`` and ``wider_face.py``.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from ..base import reading
from ..base.errors import UserError
from ..mmclasses.datasets import Leaf
from . import labels

TYPES = ("VOCDataset", "XMLDataset", "WIDERFaceDataset")
LOOKED_AT = 200  # files are read one by one, and each takes a round trip of shared storage
YEARS = ("VOC2007", "VOC2012")


def check(leaf: Leaf) -> list[str]:
    """Check the list, and some hundred of its images and XML files, evenly spread.

    Returns:
        Warnings.

    Raises:
        UserError: Something does not exist, or is not what mmdet reads.
    """
    ann_file, prefix = leaf.path("ann_file"), leaf.path("img_prefix")
    if ann_file is None or prefix is None:
        raise UserError(f"config: {leaf.key} is a {leaf.type} and needs ann_file (a list of names) and img_prefix")
    if leaf.type == "VOCDataset" and not any(year in prefix for year in YEARS):
        raise UserError(f"{leaf.name('img_prefix')}: {prefix} names neither VOC2007 nor VOC2012, by which VOCDataset "
                        "knows its rule of scoring; use a directory that does, or XMLDataset as the type, with classes")
    said = f"{leaf.name('ann_file')}: {ann_file}"
    try:
        names = reading.read_text(ann_file).splitlines()
    except FileNotFoundError:
        raise UserError(f"{said} does not exist; expected a list of names, one on each line") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{said} is not a readable list of names ({error})") from None
    if not any(names):
        raise UserError(f"{said} is empty; expected a list of names, one on each line")
    classes, step = labels.configured(leaf), -(-len(names) // LOOKED_AT)
    if not classes:
        raise UserError(f"config: {leaf.key}.classes is missing; {leaf.type} needs the names of its classes")
    met = False
    for name in names[::step]:
        met |= _check_one(leaf, Path(prefix), name, said, classes)
    return [] if met else [f"{said}: none of {len(names[::step])} XML files that were read names a class of "
                           f"{leaf.type}"]


def _check_one(leaf: Leaf, prefix: Path, name: str, said: str, classes: tuple[str, ...]) -> bool:
    """Whether one of the classes is in the XML file of a name."""
    xml = prefix / str(leaf.cfg.get("ann_subdir", "Annotations")) / f"{name}.xml"
    try:
        root = ElementTree.fromstring(reading.read_bytes(xml))
    except FileNotFoundError:
        raise UserError(f"{said} names {name!r}, and {xml} does not exist") from None
    except (OSError, ValueError, ElementTree.ParseError) as error:  # a name with NUL is a ValueError
        raise UserError(f"{xml} is not a readable XML file ({error})") from None
    folder = root.findtext("folder") or "" if leaf.type == "WIDERFaceDataset" else \
        str(leaf.cfg.get("img_subdir", "JPEGImages"))
    image = prefix / folder / f"{name}.jpg"
    if not image.is_file():
        raise UserError(f"{said} names {name!r}, and {image} does not exist")
    found = False
    for number, one in enumerate(root.iter("object"), 1):
        if one.findtext("name") not in classes:
            continue
        found = True
        for side in ("xmin", "ymin", "xmax", "ymax"):
            text = one.findtext(f"bndbox/{side}")
            try:
                float(text or "")
            except ValueError:
                raise UserError(f"{xml}: object {number} has {side} {text!r}; expected a number") from None
    return found
