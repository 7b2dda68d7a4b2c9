"""Heads for another number of classes than the data has, against mmdet's own check on models that it builds."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest

from ecm_cluster.datacheck import heads
from ecm_cluster.mmconfig import config, settled

LVIS = tuple(f"class {n}" for n in range(1203))


def read(name: str) -> dict:
    return settled.replace_references(config.read(f"mmdet::{name}"))


def on_lvis(cfg: dict) -> list[str]:
    cfg = copy.deepcopy(cfg)
    cfg["data"]["train"] = {"type": "LVISFromFile", "ann_file": "lvis.json", "pipeline": []}
    return heads.wrong_class_numbers(cfg, {"data.train.ann_file": LVIS})


def test_only_heads_that_see_the_classes_of_the_dataset_are_compared():
    (said,) = on_lvis(read("htc/htc_r50_fpn_1x_coco.py"))
    assert said.count("--set") == 6 and "semantic_head" not in said and "rpn_head" not in said
    assert "--set model.roi_head.bbox_head.2.num_classes=1203" in said
    assert "--set model.roi_head.mask_head.0.num_classes=1203" in said


def test_the_remedy_is_enough():
    cfg = read("htc/htc_r50_fpn_1x_coco.py")
    (said,) = on_lvis(cfg)
    options = dict(config.parse_option(word) for word in said.split() if word.startswith("model.") and "=" in word)
    assert on_lvis(config.apply_options(cfg, options)) == []


def test_a_number_that_the_config_leaves_to_the_class_counts_as_well():
    cfg = read("mask_rcnn/mask_rcnn_r50_fpn_1x_coco.py")
    del cfg["model"]["roi_head"]["mask_head"]["num_classes"]
    cfg["model"]["roi_head"]["bbox_head"]["num_classes"] = 1203
    assert "model.roi_head.mask_head.num_classes is 80 (FCNMaskHead)" in on_lvis(cfg)[0]


@pytest.mark.parametrize("name", ["retinanet/retinanet_r50_fpn_1x_coco.py", "yolox/yolox_tiny_8x8_300e_coco.py",
                                  "ssd/ssd300_coco.py", "detr/detr_r50_8x2_150e_coco.py"])
def test_any_kind_of_detector_is_compared_with_the_classes_of_its_dataset(name):
    cfg = read(name)
    assert heads.wrong_class_numbers(cfg, {}) == []
    cfg["model"]["bbox_head"]["num_classes"] = 3
    assert "use --set model.bbox_head.num_classes=80" in heads.wrong_class_numbers(cfg, {})[0]


def test_a_classes_setting_says_how_many_there_are():
    cfg = read("retinanet/retinanet_r50_fpn_1x_coco.py")
    cfg["data"]["train"]["classes"] = ["cat", "dog"]
    assert "use --set model.bbox_head.num_classes=2" in heads.wrong_class_numbers(cfg, {})[0]


def test_a_panoptic_config_that_leaves_the_hook_out_has_heads_for_things_and_for_all():
    assert heads.wrong_class_numbers(read("panoptic_fpn/panoptic_fpn_r50_fpn_1x_coco.py"), {}) == []
    assert heads.wrong_class_numbers(read("maskformer/maskformer_r50_mstrain_16x1_75e_coco.py"), {}) == []


BUILT = ["htc/htc_r50_fpn_1x_coco.py", "ms_rcnn/ms_rcnn_r50_fpn_1x_coco.py", "yolact/yolact_r50_1x8_coco.py",
         "guided_anchoring/ga_retinanet_r50_fpn_1x_coco.py", "point_rend/point_rend_r50_caffe_fpn_mstrain_1x_coco.py",
         "seesaw_loss/mask_rcnn_r50_fpn_random_seesaw_loss_mstrain_2x_lvis_v1.py", "rpn/rpn_r50_fpn_1x_coco.py",
         "maskformer/maskformer_r50_mstrain_16x1_75e_coco.py", "scnet/scnet_r50_fpn_1x_coco.py",
         "cascade_rpn/crpn_faster_rcnn_r50_caffe_fpn_1x_coco.py"]


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILT)
def test_the_verdict_is_that_of_mmdets_hook_on_the_model_itself(name):
    from mmcv import ConfigDict
    from mmdet.datasets import NumClassCheckHook
    from mmdet.models import build_detector

    cfg = read(name)
    model = build_detector(ConfigDict(copy.deepcopy(cfg["model"])), cfg.get("train_cfg"), cfg.get("test_cfg"))
    skipped = {"RPNHead", "VGG", "FusedSemanticHead", "GARPNHead"}
    theirs = sorted(module.num_classes for key, module in model.named_modules()
                    if key and hasattr(module, "num_classes")
                    and not skipped & {base.__name__ for base in type(module).__mro__})
    ours = sorted(count for _, count, _ in heads.numbers(cfg["model"], "model"))
    assert ours == theirs
    for number in {*theirs, 7}:
        dataset = SimpleNamespace(CLASSES=tuple(map(str, range(number))))
        try:
            NumClassCheckHook()._check_head(SimpleNamespace(model=model, data_loader=SimpleNamespace(dataset=dataset)))
            agrees = True
        except AssertionError:
            agrees = False
        assert agrees == all(count == number for count in ours)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["EpochBasedRunner", "IterBasedRunner"])
def test_training_compares_heads_with_the_dataset_that_it_has_built_with_any_runner(kind):
    import torch

    from ecm_cluster.node.mmdet_trainer import building

    cfg = {"runner": {"type": kind}, "data": {"train": {"type": "CocoDataset"}}}
    head, dataset = torch.nn.Linear(1, 1), SimpleNamespace(CLASSES=("cat", "dog"))
    head.num_classes = 2
    building.check_heads(cfg, torch.nn.Sequential(head), dataset, None)
    head.num_classes = 3
    with pytest.raises(AssertionError, match=r"num_classes.*\(3\)"):
        building.check_heads(cfg, torch.nn.Sequential(head), dataset, None)
