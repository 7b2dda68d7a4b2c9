"""A dataset of any file in LVIS's format, whatever its categories.

mmdet's LVIS datasets carry the 1,203 (or 1,230) class names of one LVIS version. With another file their
labels still follow the file, so names and labels part, and their argument ``classes`` renames labels without
choosing annotations. Here the file says both. Its images may be described as in LVIS v1 or as in v0.5.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlparse

from mmdet.datasets.builder import DATASETS
from mmdet.datasets.lvis import LVISV1Dataset


def image_file(record: dict[str, Any]) -> str:
    """The path of an image, from ``img_prefix``, by its record in an LVIS (or COCO) file.

    LVIS v1 has the path in ``coco_url`` only, with the folder of the split (``train2017/000000391895.jpg``).
    v0.5 has ``file_name``, where COCO's name of 2014 (``COCO_val2014_000000391895.jpg``) stands for the file
    that is called ``000000391895.jpg`` since 2017.
    """
    name = record.get("file_name")
    if name is not None:
        return name.rpartition("_")[2] if name.startswith("COCO_") else name
    if record.get("coco_url"):
        return urlparse(record["coco_url"]).path.lstrip("/")
    raise ValueError(
        f"image {record.get('id')}: has neither file_name (as in LVIS v0.5) nor coco_url (as in LVIS v1)"
    )


@DATASETS.register_module()
class LVISFromFile(LVISV1Dataset):
    """An LVIS dataset whose class names and labels are those of its annotation file, in the file's order.

    Takes the arguments of ``CustomDataset`` apart from ``classes``. The order is that in which
    :mod:`mmdet_ext.class_counts` reads the counts of the same file.
    """

    CLASSES: tuple[str, ...] = ()

    def __init__(self, *args: Any, classes: None = None, **kwargs: Any) -> None:
        if classes is not None:
            raise ValueError("LVISFromFile: takes all classes of ann_file, in its order; leave out classes")
        super().__init__(*args, **kwargs)

    def load_annotations(self, ann_file: str) -> list[dict[str, Any]]:
        """Read ``ann_file`` into ``self.coco`` and return the record of each image, with its ``filename``."""
        from lvis import LVIS  # needed only where annotations are read

        self.coco = LVIS(ann_file)
        self.cat_ids = self.coco.get_cat_ids()
        self.cat2label = {cat_id: label for label, cat_id in enumerate(self.cat_ids)}
        self.CLASSES = tuple(category["name"] for category in self.coco.load_cats(self.cat_ids))
        self.img_ids = self.coco.get_img_ids()
        return [{**record, "filename": image_file(record)} for record in self.coco.load_imgs(self.img_ids)]
