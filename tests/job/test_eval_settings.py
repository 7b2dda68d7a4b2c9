"""What may be varied at test time: valid values, grids, and what they change in a config."""

from __future__ import annotations

import copy
import re

import pytest

from ecm_cluster.base.errors import UserError
from ecm_cluster.job import eval_settings
from ecm_cluster.mmconfig import config


@pytest.fixture(scope="module")
def ecm() -> dict:
    return config.read("configs/ecm/mask_rcnn_r50_1x.py")


def applied(cfg: dict, **settings: object) -> dict:
    changed = copy.deepcopy(cfg)
    eval_settings.apply(changed, settings)
    return changed


def test_every_combination_of_a_grid_comes_once():
    found = eval_settings.grid({"nms_iou": [0.5, 0.6, 0.5], "flip": [False, True], "max_dets": 100})
    assert len(found) == 4
    assert {"nms_iou": 0.6, "flip": True, "max_dets": 100} in found
    assert eval_settings.grid({}) == [{}]


@pytest.mark.parametrize(("name", "value"), [
    ("score_thr", -0.1), ("score_thr", True), ("score_thr", "0.1"), ("max_per_img", 0), ("max_per_img", 1.5),
    ("nms_iou", 0), ("nms_iou", 1.1), ("background", "none"), ("temperature", 0), ("temperature", float("inf")),
    ("margin", -1), ("scale", "800"), ("scale", [800, 0]), ("flip", 1), ("max_dets", -1), ("scorer", "mine"),
    ("bootstrap", -1), ("fixed", 1)])
def test_an_invalid_value_is_refused_with_what_is_expected(name, value):
    reader = eval_settings.SETTINGS[name].reader
    with pytest.raises(UserError, match=f"sweep.yaml: {name}: .*(expected|of:) {re.escape(reader.expected)}"):
        eval_settings.check(name, value, "sweep.yaml: ")


def test_an_unknown_setting_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="setting: 'nms' is unknown.*nms_iou"):
        eval_settings.grid({"nms": [0.5]})
    with pytest.raises(UserError, match="nms_iou: the list is empty"):
        eval_settings.grid({"nms_iou": []})


def test_a_scale_is_a_pair_or_a_word():
    assert eval_settings.grid({"scale": [1333, 800]}) == [{"scale": "1333x800"}]
    assert eval_settings.grid({"scale": ["1333x800", [800, 600]]}) == [{"scale": "1333x800"}, {"scale": "800x600"}]


def test_detection_settings_and_scoring_settings_are_separated():
    detection, scoring = eval_settings.split({"nms_iou": 0.5, "max_dets": 100, "scorer": "lvis", "flip": True})
    assert detection == {"nms_iou": 0.5, "flip": True}
    assert scoring == {"max_dets": 100, "scorer": "lvis"}


def test_a_setting_changes_what_it_names_and_nothing_else(ecm):
    changed = applied(ecm, score_thr=0.05, max_per_img=100, nms_iou=0.6, scale="800x600", flip=True)
    rcnn = changed["model"]["test_cfg"]["rcnn"]
    assert (rcnn["score_thr"], rcnn["max_per_img"], rcnn["nms"]["iou_threshold"]) == (0.05, 100, 0.6)
    step = next(s for s in changed["data"]["test"]["pipeline"] if s["type"] == "MultiScaleFlipAug")
    assert (step["img_scale"], step["flip"]) == ((800, 600), True)
    for key in ("optimizer", "runner"):
        assert changed[key] == ecm[key]
    assert changed["data"]["train"] == ecm["data"]["train"]


def test_fixed_ap_lets_the_model_detect_more_unless_it_is_said_how_many(ecm):
    more = {"score_thr": 0.0, "max_per_img": eval_settings.FIXED_PER_IMAGE}
    assert eval_settings.grid({"fixed": [True, False]}) == [{"fixed": True, **more}, {"fixed": False}]
    assert eval_settings.split({"fixed": True, **more}) == (more, {"fixed": True})
    rcnn = ecm["model"]["test_cfg"]["rcnn"]
    (stored,) = eval_settings.grid({"fixed": True, "score_thr": rcnn["score_thr"], "max_per_img": rcnn["max_per_img"]})
    assert eval_settings.reduced(ecm, stored) == {"fixed": True}
    assert eval_settings.reduced(ecm, {"fixed": False}) == {}
    with pytest.raises(UserError, match="sweep.yaml: max_dets: Fixed AP has no maximum of detections per image"):
        eval_settings.grid({"fixed": True, "max_dets": 100}, "sweep.yaml: ")


def test_fixed_ap_is_of_lvis_alone():
    coco = {"data": {"test": {"type": "CocoDataset", "ann_file": "a.json"}}}
    with pytest.raises(UserError, match="fixed: only for datasets that are scored by LVIS's rule"):
        eval_settings.check_scoring(coco, {"fixed": True})
    eval_settings.check_scoring(coco, {"fixed": False})


def test_what_the_config_has_already_is_the_same_evaluation(ecm):
    rcnn = ecm["model"]["test_cfg"]["rcnn"]
    same = {"score_thr": rcnn["score_thr"], "nms_iou": rcnn["nms"]["iou_threshold"], "flip": False,
            "scale": "1333x800", "temperature": 1.0, "margin": 0.0, "max_dets": 300, "background": "multiply"}
    assert eval_settings.reduced(ecm, same) == {}
    assert eval_settings.reduced(ecm, {**same, "nms_iou": 0.7}) == {"nms_iou": 0.7}


def test_a_config_without_the_thing_to_change_is_refused(ecm):
    plain = copy.deepcopy(ecm)
    plain["data"]["test"]["pipeline"] = []
    with pytest.raises(UserError, match="scale, flip: .* no MultiScaleFlipAug"):
        applied(plain, flip=True)
    del plain["model"]["test_cfg"]["rcnn"]["nms"]
    with pytest.raises(UserError, match="nms_iou: model.test_cfg has no nms"):
        applied(plain, nms_iou=0.5)
    del plain["model"]["roi_head"]
    with pytest.raises(UserError, match="no roi_head.bbox_head"):
        applied(plain, temperature=2.0)


def test_the_background_of_a_head_that_has_no_such_scores_is_left_alone():
    cross_entropy = config.read("configs/baselines/mask_rcnn_r50_1x_ce.py")
    with pytest.raises(UserError, match="background: multiply is for heads with a sigmoid.*CrossEntropyLoss"):
        applied(cross_entropy, background="multiply")
    applied(cross_entropy, background="ignore")
    with pytest.raises(UserError, match="background: SeesawLoss handles the background in its own way"):
        applied(config.read("configs/baselines/mask_rcnn_r50_1x_seesaw.py"), background="softmax")


def test_the_shipped_sweep_can_be_read_and_is_possible_with_the_ecm_config(ecm, root):
    found = eval_settings.grid(eval_settings.read_sweep(root / "jobs" / "eval_sweep.yaml"))
    assert len(found) > 4
    for settings in found:
        applied(ecm, **eval_settings.split(settings)[0])
