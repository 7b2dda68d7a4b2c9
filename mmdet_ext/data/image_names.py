"""The one rule from an image's record in an annotation file to the path of its file, below a dataset's ``img_prefix``.

Source: mmdet 2.28 datasets/coco.py, lvis.py and objects365.py. LVIS v1 has the path in ``coco_url`` only, with the
folder of the split (``train2017/000000391895.jpg``). COCO and LVIS v0.5 have ``file_name``, mostly without a folder;
there COCO's name of 2014 (``COCO_val2014_000000391895.jpg``) stands for the file called ``000000391895.jpg`` since
2017. Needs the standard library only.
"""

from __future__ import annotations

import contextlib
from typing import Any
from urllib.parse import urlparse

SERVER = "http://images.cocodataset.org/"  # what mmdet strips from coco_url
FIELDS = ("file_name", "coco_url")


def of_coco(record: dict[str, Any]) -> str:
    """The path that mmdet's ``CocoDataset`` takes."""
    return record["file_name"]


def of_lvis_v1(record: dict[str, Any]) -> str:
    """The path that mmdet's ``LVISV1Dataset`` takes."""
    return record["coco_url"].replace(SERVER, "")


def of_lvis_v05(record: dict[str, Any]) -> str:
    """The path that mmdet's ``LVISV05Dataset`` takes."""
    name = record["file_name"]
    return name[-16:] if name.startswith("COCO") else name


def of_any(record: dict[str, Any]) -> str:
    """The path that ``LVISFromFile`` takes, for records of LVIS v1 as well as v0.5."""
    name, url = (record.get(field) for field in FIELDS)
    if name is not None:
        return name.rpartition("_")[2] if name.startswith("COCO_") else name
    if url:
        return urlparse(url).path.lstrip("/")
    raise ValueError(f"image {record.get('id')}: has neither file_name (as in LVIS v0.5) nor coco_url (as in LVIS v1)")


def candidates(record: dict[str, Any], dataset: str = "") -> list[str]:
    """Every path that a dataset (of this type, if known) may take, those from ``file_name`` first.

    Records may hold anything.
    """
    name, url = record.get("file_name"), record.get("coco_url")
    found = []
    if isinstance(name, str) and name:
        if dataset == "Objects365V2Dataset":
            return ["/".join(name.split("/")[-2:])]
        found += [name, of_lvis_v05(record), of_any(record)] if name.startswith("COCO") else [name]
    if isinstance(url, str) and url:
        found.append(of_lvis_v1(record))
        with contextlib.suppress(ValueError):  # a host in brackets that is not an address
            found.append(urlparse(url).path.lstrip("/"))
    return list(dict.fromkeys(found))
