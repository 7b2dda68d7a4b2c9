"""An image that cannot be used is named: its file, its id, its annotation file, the reason."""

from __future__ import annotations

import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import processes.framework_in_process  # noqa: F401 (before anything else imports torch)
import numpy as np
import pytest
import torch
from mmdet.datasets import build_dataset
from PIL import Image

import mmdet_ext.register  # noqa: F401
from ecm_cluster.attempts import failures
from mmdet_ext.data.samples import BadSample, NamedSubset
from mmdet_ext.data.sampling import SeededDataset

TRAIN = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True},
         {"type": "Resize", "img_scale": (64, 64), "keep_ratio": True}, {"type": "Pad", "size_divisor": 32},
         {"type": "DefaultFormatBundle"}, {"type": "Collect", "keys": ["img", "gt_bboxes", "gt_labels", "gt_masks"]}]
TEST = [{"type": "LoadImageFromFile"}, {"type": "Collect", "keys": ["img"], "meta_keys": []}]
SQUARE = [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]]


def written(folder: Path, corrupt: Any = None, segmentation: Any = SQUARE) -> str:
    """Annotations of one image of 60×40, which ``corrupt`` is given; their path."""
    path = folder / "images/one.jpg"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(path)
    if corrupt:
        corrupt(path)
    ann_file = folder / "annotations.json"
    ann_file.write_text(json.dumps({
        "images": [{"id": 77, "file_name": "one.jpg", "width": 60, "height": 40}],
        "annotations": [{"id": 5, "image_id": 77, "category_id": 1, "bbox": [1, 1, 8, 8], "area": 64, "iscrowd": 0,
                         "segmentation": segmentation}],
        "categories": [{"id": 1, "name": "a"}]}))
    return str(ann_file)


def dataset(folder: Path, ann_file: str, pipeline: Any = TRAIN, **changes: Any) -> Any:
    return build_dataset({"type": "CocoDataset", "ann_file": ann_file, "img_prefix": f"{folder}/images/",
                          "classes": ["a"], "pipeline": pipeline, "filter_empty_gt": False, **changes})


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def forbidden(path: Path) -> None:
    path.unlink()
    path.mkdir()  # as even root cannot read it


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)


CORRUPTIONS = [
    (lambda path: path.write_bytes(b""), "the file is empty"),
    (truncated, r"the file cannot be decoded as an image \(20 bytes, beginning with b'\\xff\\xd8\\xff\\xe0"),
    (lambda path: path.write_text("not found"), r"cannot be decoded as an image \(9 bytes, beginning with b'not foun'"),
    (lambda path: path.unlink(), "the file does not exist"),
    (forbidden, r"the file cannot be read \(Is a directory\)"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("corrupt", "said", "workers"), [(*one, int(n == 1)) for n, one in enumerate(CORRUPTIONS)])
def test_an_image_that_cannot_be_read_is_named_from_within_a_loader(tmp_path, corrupt, said, workers):
    data = dataset(tmp_path, written(tmp_path, corrupt))
    loader = torch.utils.data.DataLoader(SeededDataset(data, 0), batch_sampler=[[(0, 0, 0)]], num_workers=workers)
    with pytest.raises(BadSample) as caught:
        next(iter(loader))
    said = rf"image {tmp_path}/images/one.jpg \(id 77, in {tmp_path}/annotations.json\): .*{said}.*; replace the file"
    assert re.match(said, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)
    detail = failures.end_of(caught.value, 3)["detail"]
    assert detail == f"rank 3: {caught.value}"


@pytest.mark.parametrize(("corrupt", "said"), CORRUPTIONS[:1])
def test_the_same_in_an_evaluation(tmp_path, corrupt, said):
    data = dataset(tmp_path, written(tmp_path, corrupt), TEST, test_mode=True)
    loader = torch.utils.data.DataLoader(NamedSubset(data, [0]), num_workers=1)
    with pytest.raises(BadSample, match=rf"id 77, in {tmp_path}/annotations.json\): .*{said}"):
        next(iter(loader))


@pytest.mark.parametrize(("segmentation", "said"), [
    ({"size": [10, 12], "counts": [0, 120]}, "mask 1 of its annotations is encoded for 12×10 pixels, and the record "
                                             "says 60×40"),
    ([[1.0, 1.0, 9.0, 9.0]], "mask 1 of its annotations has a polygon of 4 numbers; expected an even count of 6 or "
                             "more"),
    ([[1.0, 1.0, 9.0, 9.0, 3.0]], "has a polygon of 5 numbers"),
    ([3.0], "mask 1 of its annotations has a polygon of 1 number;"),
])
def test_annotations_that_cannot_be_drawn_are_named(tmp_path, segmentation, said):
    polygons = [{**step, "poly2mask": False} if step["type"] == "LoadAnnotations" and isinstance(segmentation, list)
                else step for step in TRAIN]
    data = SeededDataset(dataset(tmp_path, written(tmp_path, None, segmentation), polygons), 0)
    with pytest.raises(BadSample, match=re.escape(said)):
        data[0, 0, 0]


def test_an_image_that_its_exif_data_turns_is_named_with_both_sizes(tmp_path):
    crop = [*TRAIN[:2], {"type": "Pad", "size": (40, 60)}, *TRAIN[4:]]
    data = SeededDataset(dataset(tmp_path, written(tmp_path, turned), crop), 0)
    with pytest.raises(BadSample, match="it has 40×60 pixels once its EXIF orientation is applied, and its record says "
                                        "60×40"):
        data[0, 0, 0]


@pytest.mark.parametrize("wrap", [
    lambda one: {"type": "RepeatDataset", "times": 3, "dataset": one},
    lambda one: {"type": "ConcatDataset", "datasets": [one, one]},
    lambda one: {"type": "ClassBalancedDataset", "oversample_thr": 0.5, "dataset": one},
    lambda one: {"type": "MultiImageMixDataset", "dataset": one,
                 "pipeline": [{"type": "Mosaic", "img_scale": (32, 32)}]},
])
def test_an_image_is_found_through_any_wrapper_of_its_dataset(tmp_path, wrap):
    one = {"type": "CocoDataset", "ann_file": written(tmp_path, truncated), "img_prefix": f"{tmp_path}/images/",
           "classes": ["a"], "pipeline": TRAIN}
    data = SeededDataset(build_dataset(wrap(one)), 0)
    with pytest.raises(BadSample, match=rf"image {tmp_path}/images/one.jpg \(id 77"):
        data[0, 0, len(data) - 1]


def test_where_no_data_set_of_mmdets_kind_is_at_work_the_number_is_named():
    class Own:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Any:
            raise ValueError("no such thing")

    with pytest.raises(BadSample, match=re.escape("sample 0 of Own: ValueError: no such thing")):
        SeededDataset(Own(), 0)[0, 0, 0]


def test_an_error_of_a_sample_survives_a_pickle():
    error = BadSample("BadSample: image a.jpg: the file is empty")
    assert str(pickle.loads(pickle.dumps(error))) == "image a.jpg: the file is empty"
    assert os.linesep not in str(error)
