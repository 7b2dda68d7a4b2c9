"""The dataset that takes its classes from the annotation file, on real files of both LVIS versions' forms."""

from __future__ import annotations

import json

import pytest
from mmdet.datasets import build_dataset

import mmdet_ext.register  # noqa: F401 (registers the dataset)
from mmdet_ext.data.class_counts import read_class_counts
from mmdet_ext.data.image_names import of_any

V1 = {"id": 7, "coco_url": "http://images.cocodataset.org/val2017/000000000007.jpg"}


def write(folder, images):
    """Three categories, ids and names in no order; a box of the one called b in the first image."""
    categories = [
        {"id": i, "name": n, "instance_count": c, "image_count": c, "frequency": "r"}
        for i, n, c in ((30, "b", 5), (10, "c", 7), (20, "a", 9))
    ]
    annotation = {"id": 1, "image_id": 7, "category_id": 30, "bbox": [1, 2, 10, 12], "area": 120,
                  "segmentation": [[1, 2, 11, 2, 11, 14, 1, 14]]}  # fmt: skip
    lists = {"height": 32, "width": 32, "neg_category_ids": [], "not_exhaustive_category_ids": []}
    content = {"images": [{**i, **lists} for i in images], "annotations": [annotation], "categories": categories}
    (folder / "ann.json").write_text(json.dumps(content))
    return str(folder / "ann.json")


def make(ann_file, **more):
    return build_dataset({"type": "LVISFromFile", "ann_file": ann_file, "pipeline": [], **more})


def test_class_names_labels_and_counts_follow_the_order_of_the_file(tmp_path):
    ann_file = write(tmp_path, [V1])
    dataset = make(ann_file)
    assert dataset.CLASSES == ("b", "c", "a") == read_class_counts(ann_file).names
    assert dataset.cat2label == {30: 0, 10: 1, 20: 2}
    info = dataset.get_ann_info(0)
    assert info["labels"].tolist() == [0]
    assert info["bboxes"].tolist() == [[1, 2, 11, 14]]


def test_the_class_names_of_one_file_do_not_leak_into_another(tmp_path):
    first = make(write(tmp_path, [V1]))
    (tmp_path / "other").mkdir()
    path = write(tmp_path / "other", [V1])
    content = json.loads((tmp_path / "other" / "ann.json").read_text())
    content["categories"] = content["categories"][:1]
    (tmp_path / "other" / "ann.json").write_text(json.dumps(content))
    assert (make(path).CLASSES, first.CLASSES, type(first).CLASSES) == (("b",), ("b", "c", "a"), ())


@pytest.mark.parametrize(("record", "file"), [
    (V1, "val2017/000000000007.jpg"),
    ({**V1, "file_name": "COCO_val2014_000000000007.jpg"}, "000000000007.jpg"),
    ({**V1, "file_name": "000000000007.jpg"}, "000000000007.jpg"),
    ({"id": 7, "file_name": "mine/a_b.png"}, "mine/a_b.png"),
    ({"id": 7, "coco_url": "https://elsewhere.example/train2017/x.jpg"}, "train2017/x.jpg"),
])  # fmt: skip
def test_the_image_file_is_found_in_either_version_of_the_format(record, file, tmp_path):
    assert of_any(record) == file
    assert make(write(tmp_path, [record])).data_infos[0]["filename"] == file


def test_an_image_without_a_name_is_refused_by_its_id(tmp_path):
    ann_file = write(tmp_path, [{"id": 7}])
    with pytest.raises(ValueError, match="image 7: has neither file_name"):
        make(ann_file)


def test_images_without_objects_are_left_out_of_training_only(tmp_path):
    ann_file = write(tmp_path, [V1, {**V1, "id": 8}])
    assert len(make(ann_file)) == 1
    assert len(make(ann_file, test_mode=True)) == 2


def test_a_choice_of_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="invalid classes; expected none"):
        make(write(tmp_path, [V1]), classes=["a"])
