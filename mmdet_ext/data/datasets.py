"""Datasets that read columns (:mod:`mmdet_ext.data.annotations`) where there are some, and the JSON file elsewhere.

``LVISFromFile`` is a dataset of any file in LVIS's format, with any categories. mmdet's LVIS datasets carry the
1,203 (or 1,230) class names of one LVIS version. With another file their labels still follow the file, so names and
labels diverge, and their argument ``classes`` renames labels without choosing annotations. Here both come from the
file. Its images may be described as in LVIS v1 or as in v0.5.

The others are mmdet's own datasets and give bit-identical results, from columns or not. If columns cannot tell what
mmdet would do (an image lacks the name that is needed, a subclass parses annotations its own way), the JSON file is
read. ``dataset.coco``, which ``evaluate`` needs, is read on first use.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from mmdet.datasets.builder import DATASETS
from mmdet.datasets.coco import CocoDataset
from mmdet.datasets.lvis import LVISV05Dataset, LVISV1Dataset

from . import image_names
from .annotations import Columns, columns_of
from .records import Records


class FromColumns(CocoDataset):
    """What these datasets share. ``_columns`` is None if the annotation file has been read instead."""

    proposals: Any
    data_infos: Any
    _name: Any  # from a record to the path of its image
    _name_from: tuple[str, ...]  # a record has to have one of these, and all records the same

    def __init__(self, ann_file: str, pipeline: Any, classes: Any = None, data_root: str | None = None,
                 img_prefix: str = "", seg_prefix: str | None = None, *, test_mode: bool = False,
                 **kwargs: Any) -> None:
        self._columns: Columns | None = None
        path = ann_file if data_root is None or os.path.isabs(ann_file) else os.path.join(data_root, ann_file)
        # mmdet filters images one dict at a time, except in test mode; the rest of what it does is done below
        self._columns_path = columns_of(path)
        mapped = self._columns_path is not None
        super().__init__(ann_file, pipeline, classes, data_root, img_prefix, seg_prefix,
                         test_mode=test_mode or mapped, **kwargs)
        self.test_mode = test_mode
        if mapped and not test_mode:
            valid = self._filter_imgs()
            infos = self.data_infos
            self.data_infos = infos.take(valid) if isinstance(infos, Records) else [infos[i] for i in valid]
            if self.proposals is not None:
                self.proposals = [self.proposals[i] for i in valid]
            self._set_group_flag()

    def load_annotations(self, ann_file: str) -> Any:
        """mmdet's, from the columns of the dataset's file if it has some; ``ann_file`` may be a copy of it."""
        columns = None if self._columns_path is None else Columns(self._columns_path)
        cat_ids = None if columns is None or not self._can_use(columns) else self._choose(columns)
        if columns is None or cat_ids is None:
            return super().load_annotations(ann_file)
        self._columns = columns
        # where to find the file later, from any working directory
        self._read_from = self.ann_file if "://" in self.ann_file else os.path.abspath(self.ann_file)
        self.cat_ids = cat_ids
        self.cat2label = {cat_id: label for label, cat_id in enumerate(cat_ids)}
        self.img_ids = columns.image_id.tolist()
        return Records(columns, np.arange(len(columns)), type(self)._name)

    def _can_use(self, columns: Columns) -> bool:
        """False if the columns lack the names of images, or a subclass parses annotations in its own way."""
        named = [columns.names[name] for name in self._name_from]
        complete = "all" in named and set(named[: named.index("all")]) <= {"none"}
        return complete and type(self)._parse_ann_info is CocoDataset._parse_ann_info

    def _choose(self, columns: Columns) -> list[int] | None:
        """The category ids in the order of labels, or None if only the annotation file can tell."""
        return list(dict.fromkeys(cat_id for cat_id, _ in columns.listed_categories()))

    # --- the API object, which is rarely needed

    @property
    def coco(self) -> Any:
        """The object of lvis-api or pycocotools; with columns it is made on first use."""
        if "_coco" not in self.__dict__:
            if self.__dict__.get("_columns") is None:
                raise AttributeError("coco")
            other: Any = object.__new__(type(self))
            other.CLASSES = self.CLASSES
            with self.file_client.get_local_path(self._read_from) as local_path:
                super(FromColumns, other).load_annotations(local_path)
            self._coco, self._coco_is_made = other._coco, True
        return self._coco

    @coco.setter
    def coco(self, value: Any) -> None:
        self._coco, self._coco_is_made = value, False

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if state.get("_coco_is_made"):
            del state["_coco"], state["_coco_is_made"]
        return state

    # --- from columns

    def _image(self, index: int) -> int | None:
        """The place of a sample in the columns; None if mmdet's own code has to read it."""
        infos = self.data_infos
        if self._columns is None:
            return None
        if isinstance(infos, Records):
            return int(infos.images[index])
        try:  # a list of dicts that was put in its place counts
            return self._columns.row_of(infos[index]["id"])
        except KeyError:
            return None

    def get_ann_info(self, idx: int) -> dict[str, Any]:
        """mmdet's: boxes, labels, boxes to ignore, masks as the file has them, and the name of the seg map."""
        columns, image = self._columns, self._image(idx)
        if columns is None or image is None:
            return super().get_ann_info(idx)
        raw = columns.raw(image)
        if raw is not None:
            return self._parse_ann_info(self.data_infos[idx], raw)
        infos = self.data_infos
        name = infos.name(columns.name_record(image)) if isinstance(infos, Records) else infos[idx]["filename"]
        boxes, labels, ignored, masks = columns.objects(image, *self._labels())
        return {"bboxes": boxes, "labels": labels, "bboxes_ignore": ignored, "masks": masks,
                "seg_map": self._seg_map(name)}

    def _seg_map(self, name: str) -> str:
        suffix: str | None = getattr(self, "seg_suffix", None)  # since mmdet 2.26
        return name.replace("jpg", "png") if suffix is None else name.rsplit(".", 1)[0] + suffix

    def get_cat_ids(self, idx: int) -> list[int]:
        """mmdet's: the category id of each annotation."""
        columns, image = self._columns, self._image(idx)
        return super().get_cat_ids(idx) if columns is None or image is None else columns.category_ids(image)

    def _labels(self) -> tuple[np.ndarray, bool]:
        """(K,) label of each category of the columns, -1 for none, and whether all have one."""
        assert self._columns is not None
        given, (cat_ids, cat2label) = self.__dict__.get("_labels_of"), (self.cat_ids, self.cat2label)
        if given is None or given[0] is not cat_ids or given[1] is not cat2label:  # they may have been replaced
            known = set(cat_ids)
            labels = np.array([cat2label[i] if i in known else -1 for i in self._columns.category_id.tolist()],
                              np.int64)
            self._labels_of = given = (cat_ids, cat2label, labels, bool((labels >= 0).all()))
        return given[2], given[3]

    def distinct_categories(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Which categories the N samples have; None if columns cannot tell.

        Returns:
            How many each has, (N,); all of these, sample by sample, as places in a table; the table of their ids.
        """
        infos = self.data_infos
        if self._columns is None or not isinstance(infos, Records):
            return None
        return (*self._columns.distinct(infos.images), self._columns.category_id)

    def _filter_imgs(self, min_size: int = 32) -> list[int]:
        """mmdet's: places of the images that are large enough and, if requested, have an object of the classes."""
        columns, infos = self._columns, self.data_infos
        if columns is None or not isinstance(infos, Records):
            return super()._filter_imgs(min_size)
        valid = np.minimum(columns.width, columns.height) >= min_size
        if self.filter_empty_gt:
            valid &= columns.with_category(np.isin(columns.category_id, self.cat_ids))
        places = np.flatnonzero(valid[infos.images])
        self.img_ids = columns.image_id[infos.images[places]].tolist()
        return places.tolist()

    def _set_group_flag(self) -> None:
        """mmdet's: 1 for images that are wider than high."""
        columns, infos = self._columns, self.data_infos
        if columns is None or not isinstance(infos, Records) or not columns.height.all():
            super()._set_group_flag()
            return
        self.flag = (columns.width / columns.height > 1)[infos.images].astype(np.uint8)


@DATASETS.register_module()
class CocoFromColumns(FromColumns, CocoDataset):
    """mmdet's ``CocoDataset``, from columns if there are some."""

    _name, _name_from = staticmethod(image_names.of_coco), ("file_name",)

    def _choose(self, columns: Columns) -> list[int] | None:
        # mmdet refuses repeated annotation ids, and asks pycocotools for the categories by their names
        listed = columns.listed_categories()
        named = isinstance(self.CLASSES, (list, tuple)) and all(name is not None for _, name in listed)
        if columns.repeated_ids or not named:
            return None
        return [cat_id for cat_id, name in listed if not self.CLASSES or name in self.CLASSES]


@DATASETS.register_module()
class LVISV05FromColumns(FromColumns, LVISV05Dataset):
    """mmdet's ``LVISV05Dataset`` (or ``LVISDataset``), from columns if there are some."""

    _name, _name_from = staticmethod(image_names.of_lvis_v05), ("file_name",)


@DATASETS.register_module()
class LVISV1FromColumns(FromColumns, LVISV1Dataset):
    """mmdet's ``LVISV1Dataset``, from columns if there are some."""

    _name, _name_from = staticmethod(image_names.of_lvis_v1), ("coco_url",)


class _PlainFromFile(LVISV1Dataset):
    """``LVISFromFile`` without columns."""

    CLASSES: tuple[str, ...] = ()

    def load_annotations(self, ann_file: str) -> list[dict[str, Any]]:
        """Read ``ann_file`` into ``self.coco`` and return the record of each image, with its ``filename``."""
        from lvis import LVIS  # not at the top: only needed if annotations are read

        self.coco = LVIS(ann_file)
        self.cat_ids = self.coco.get_cat_ids()
        self.cat2label = {cat_id: label for label, cat_id in enumerate(self.cat_ids)}
        self.CLASSES = tuple(category["name"] for category in self.coco.load_cats(self.cat_ids))
        self.img_ids = self.coco.get_img_ids()
        return [{**record, "filename": image_names.of_any(record)} for record in self.coco.load_imgs(self.img_ids)]


@DATASETS.register_module()
class LVISFromFile(FromColumns, _PlainFromFile):
    """An LVIS dataset whose class names and labels are those of its annotation file, in the file's order.

    Takes the arguments of ``CustomDataset`` apart from ``classes``. The order is that in which
    :mod:`mmdet_ext.data.class_counts` reads the counts of the same file.
    """

    _name, _name_from = staticmethod(image_names.of_any), image_names.FIELDS

    def __init__(self, *args: Any, classes: None = None, **kwargs: Any) -> None:
        if classes is not None:
            raise ValueError("LVISFromFile: invalid classes; expected none, as it takes all classes of ann_file in its order")
        super().__init__(*args, **kwargs)

    def _choose(self, columns: Columns) -> list[int] | None:
        names = dict(columns.listed_categories())
        if None in names.values():
            return None
        self.CLASSES = tuple(str(name) for name in names.values())
        return list(names)
