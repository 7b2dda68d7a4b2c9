"""A split as mmdet builds it, and its leaves without mmdet."""

from __future__ import annotations

import pytest

from ecm_cluster.base.errors import UserError
from ecm_cluster.mmclasses.datasets import is_concatenated, leaves, pipelines

COCO = {"type": "CocoDataset", "ann_file": "a.json", "img_prefix": "images", "data_root": "/data"}


def of(section: object) -> list:
    return leaves({"data": {"test": section}}, "test")


def test_a_dataset_is_its_own_leaf_with_paths_below_its_data_root() -> None:
    (leaf,) = of(COCO)
    assert (leaf.key, leaf.type, leaf.wrappers) == ("data.test", "CocoDataset", ())
    assert (leaf.path("ann_file"), leaf.path("img_prefix")) == ("/data/a.json", "/data/images")
    assert leaf.path("seg_prefix") is None and leaf.name("ann_file") == "data.test.ann_file"
    assert leaves({"data": {}}, "test") == []
    assert not is_concatenated(COCO)


def test_wrappers_lists_and_lists_of_files_come_apart_in_mmdets_order() -> None:
    several = {**COCO, "ann_file": ["a.json", "b.json"], "img_prefix": ("x", "y"), "separate_eval": False}
    section = {"type": "RepeatDataset", "times": 2, "dataset": {
        "type": "ConcatDataset", "datasets": [COCO, {"type": "ClassBalancedDataset", "dataset": [several, COCO]}]}}
    found = of(section)
    assert [leaf.key for leaf in found] == [
        "data.test.dataset.datasets.0", *["data.test.dataset.datasets.1.dataset.0"] * 2,
        "data.test.dataset.datasets.1.dataset.1"]
    assert [leaf.path("img_prefix") for leaf in found] == ["/data/images", "/data/x", "/data/y", "/data/images"]
    assert found[2].name("ann_file") == "data.test.dataset.datasets.1.dataset.0.ann_file.1"
    assert found[2].wrappers == ("RepeatDataset", "ConcatDataset", "ClassBalancedDataset")
    assert "separate_eval" not in found[1].cfg
    assert is_concatenated([COCO]) and is_concatenated(several) and not is_concatenated(section)


@pytest.mark.parametrize("section, said", [
    ([], "data.test is an empty list"),
    ("coco", "invalid data.test"),
    ({"ann_file": "a.json"}, "expected a dict with a 'type'"),
    ({"type": "RepeatDataset", "times": 2}, "data.test is a RepeatDataset without 'dataset'"),
    ({**COCO, "ann_file": []}, "data.test.ann_file is an empty list"),
    ({**COCO, "ann_file": ["a", "b"], "img_prefix": ["x"]}, "data.test.img_prefix has 1 entries"),
])
def test_what_mmdet_cannot_build_is_named(section: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        of(section)


def test_steps_of_pipelines_are_found_in_wrappers_too() -> None:
    section = {"type": "MultiImageMixDataset", "pipeline": [{"type": "Mosaic"}], "dataset": {
        **COCO, "pipeline": [{"type": "MultiScaleFlipAug", "transforms": [{"type": "Resize"}]}]}}
    assert [(key, step["type"]) for key, step in pipelines({"data": {"train": section}}, "train")] == [
        ("data.train.pipeline.0", "Mosaic"), ("data.train.dataset.pipeline.0", "MultiScaleFlipAug"),
        ("data.train.dataset.pipeline.0.transforms.0", "Resize")]
