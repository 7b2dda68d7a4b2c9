"""Plain values that a model changes while it trains are kept for each virtual rank, and put back."""

from __future__ import annotations

import numpy as np
import torch

import mmdet_ext.register  # noqa: F401
from mmdet_ext.runners.effects import Attributes
from mmdet_ext.runners.virtual_ranks import RankBuffers


class Counting(torch.nn.Module):
    """Counts its forward passes, as YOLOX does, and remembers sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.passes, self.sizes, self.epoch, self.inner = 0, [], 0, torch.nn.Linear(1, 1)
        self._size = (64, 64)

    def forward(self, size: int) -> None:
        self.passes += 1
        self.sizes.append(np.float64(size))
        self._size = (size, size)


def test_only_what_has_changed_is_kept_with_its_types():
    model = Counting()
    attributes = Attributes(model)
    assert attributes.by_name() == {}
    model(32)
    changed = attributes.by_name()
    assert changed == {":passes": 1, ":sizes": [32.0], ":_size": (32, 32)}
    assert type(changed[":sizes"][0]) is np.float64


def test_a_new_model_takes_them_up_and_keeps_its_own_lists():
    model, fresh = Counting(), Counting()
    before, after = Attributes(model), Attributes(fresh)
    model(32)
    kept = before.by_name()
    after.put_by_name(kept)
    fresh(48)
    assert (fresh.passes, fresh.sizes, kept[":sizes"]) == (2, [32.0, 48], [32.0])
    after.put_by_name({})
    assert (fresh.passes, fresh.sizes, fresh._size) == (0, [], (64, 64))


def test_virtual_ranks_of_one_process_do_not_see_each_others_values():
    model = Counting()
    buffers = RankBuffers(model, 2)
    for step in range(3):
        buffers.begin_step()
        for rank, size in enumerate((32, 48)):
            buffers.enter(rank)
            model(size)
            buffers.leave(rank)
        buffers.end_step()
        assert (model.passes, set(model.sizes), model._size) == (step + 1, {32}, (32, 32))
        model.epoch = step + 1  # as a hook does: for all ranks
    first, second = buffers.plain_of_each()
    assert (first[":sizes"], second[":sizes"], second[":passes"]) == ([32.0] * 3, [48.0] * 3, 3)
    buffers.begin_step()
    buffers.enter(1)
    assert model.epoch == 3 and model.passes == 3


def test_the_thresholds_of_dynamic_rcnns_assigner_are_among_them():
    from mmcv import ConfigDict
    from mmdet.models import build_detector

    from ecm_cluster.mmconfig import config

    cfg = ConfigDict(config.read("mmdet::dynamic_rcnn/dynamic_rcnn_r50_fpn_1x_coco.py")["model"])
    cfg.backbone.update(depth=18, base_channels=4, init_cfg=None)
    cfg.neck.update(in_channels=[4, 8, 16, 32], out_channels=8)
    cfg.rpn_head.update(in_channels=8, feat_channels=8)
    cfg.roi_head.bbox_head.update(in_channels=8, fc_out_channels=8)
    model = build_detector(cfg)
    attributes = Attributes(model)
    model.roi_head.iou_history, model.roi_head.beta_history = [np.float64(0.6)], [0.02]
    model.roi_head.update_hyperparameters()
    changed = attributes.by_name()
    assert changed["roi_head.bbox_assigner.0:pos_iou_thr"] == 0.6
    assert changed["roi_head.bbox_head.loss_bbox:beta"] == 0.02
    assert "roi_head:iou_history" not in changed  # empty, as at first
