"""The ECM loss in stock mmdet heads and detectors: training, test-time scores, checkpoints."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("mmdet")

from mmcv import ConfigDict  # noqa: E402
from mmcv.runner import load_checkpoint  # noqa: E402
from mmdet.core import BitmapMasks  # noqa: E402
from mmdet.models import build_detector, build_head  # noqa: E402

import mmdet_ext.register  # noqa: E402, F401

COUNTS = [900, 40, 1]
NAMES = [
    "EffectiveClassMarginLoss",
    "EffectiveClassMarginLossNick",
    "EffectiveClassMarginLossNickWAuthorBgHandling",
]


def loss_config(name: str) -> dict:
    return dict(type=name, class_counts=COUNTS, use_sigmoid=True, num_classes=3, loss_weight=1.0)


def bbox_head(name: str, agnostic: bool = False) -> dict:
    return dict(
        type="Shared2FCBBoxHead",
        in_channels=16,
        fc_out_channels=16,
        roi_feat_size=7,
        num_classes=3,
        reg_class_agnostic=agnostic,
        cls_predictor_cfg=dict(type="NormedLinear", tempearture=20),
        loss_cls=loss_config(name),
    )


def detector(name: str, stages: int = 1) -> torch.nn.Module:
    """A Mask R-CNN (or Cascade Mask R-CNN) of stock mmdet parts, small enough for a test."""
    roi = dict(
        type="CascadeRoIHead" if stages > 1 else "StandardRoIHead",
        bbox_roi_extractor=dict(
            type="SingleRoIExtractor",
            roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=0),
            out_channels=16,
            featmap_strides=[4, 8, 16, 32],
        ),
        bbox_head=[bbox_head(name, agnostic=True) for _ in range(stages)] if stages > 1 else bbox_head(name),
        mask_roi_extractor=dict(
            type="SingleRoIExtractor",
            roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=0),
            out_channels=16,
            featmap_strides=[4, 8, 16, 32],
        ),
        mask_head=dict(
            type="FCNMaskHead",
            num_convs=1,
            in_channels=16,
            conv_out_channels=16,
            num_classes=3,
            predictor_cfg=dict(type="NormedConv2d", tempearture=20),
            loss_mask=dict(type="CrossEntropyLoss", use_mask=True, loss_weight=1.0),
        ),
    )
    if stages > 1:
        roi.update(num_stages=stages, stage_loss_weights=[1.0, 0.5][:stages])
    sampler = dict(type="RandomSampler", num=16, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True)
    rcnn_train = dict(
        assigner=dict(
            type="MemorySafeMaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.5, match_low_quality=False
        ),
        sampler=sampler,
        mask_size=14,
        pos_weight=-1,
        debug=False,
    )
    proposals = dict(nms_pre=64, max_per_img=16, nms=dict(type="nms", iou_threshold=0.7), min_bbox_size=0)
    config = dict(
        type="MaskRCNN",
        backbone=dict(type="ResNet", depth=18, base_channels=4, num_stages=4, norm_eval=True),
        neck=dict(type="FPN", in_channels=[4, 8, 16, 32], out_channels=16, num_outs=5),
        rpn_head=dict(
            type="RPNHead",
            in_channels=16,
            feat_channels=16,
            anchor_generator=dict(
                type="AnchorGenerator", scales=[8], ratios=[1.0], strides=[4, 8, 16, 32, 64]
            ),
        ),
        roi_head=roi,
        train_cfg=dict(
            rpn=dict(
                assigner=dict(
                    type="MemorySafeMaxIoUAssigner", pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3
                ),
                sampler=dict(sampler, add_gt_as_proposals=False),
                allowed_border=-1,
                pos_weight=-1,
                debug=False,
            ),
            rpn_proposal=proposals,
            rcnn=[rcnn_train] * stages if stages > 1 else rcnn_train,
        ),
        test_cfg=dict(
            rpn=proposals,
            rcnn=dict(
                score_thr=1e-4, nms=dict(type="nms", iou_threshold=0.5), max_per_img=20, mask_thr_binary=0.5
            ),
        ),
    )
    torch.manual_seed(0)
    return build_detector(ConfigDict(config))


def images():
    torch.manual_seed(1)
    meta = dict(
        img_shape=(64, 64, 3),
        ori_shape=(64, 64, 3),
        pad_shape=(64, 64, 3),
        scale_factor=np.ones(4, dtype=np.float32),
        flip=False,
        filename="x.jpg",
    )
    return torch.randn(2, 3, 64, 64), [dict(meta), dict(meta)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stages"), [(NAMES[0], 1), (NAMES[0], 2), (NAMES[1], 1), (NAMES[2], 2)])
def test_a_stock_detector_trains_and_detects_with_it(name, stages):
    model = detector(name, stages)
    image, metas = images()
    boxes = [torch.tensor([[4.0, 4, 40, 40], [30, 10, 60, 44]]), torch.tensor([[10.0, 10, 50, 50]])]
    masks = [BitmapMasks(np.ones((len(b), 64, 64), dtype=np.uint8), 64, 64) for b in boxes]
    losses = model.forward_train(
        image, metas, boxes, [torch.tensor([0, 2]), torch.tensor([1])], gt_masks=masks
    )
    total, log = model._parse_losses(losses)
    total.backward()
    prefixes = [f"s{i}." for i in range(stages)] if stages > 1 else [""]
    custom = name != NAMES[1]
    for prefix in prefixes:
        assert log[f"{prefix}loss_cls"] > 0
        assert {f"{prefix}acc_objectness", f"{prefix}acc_classes"} <= log.keys() if custom else "acc" in log
    gradients = [p.grad for n, p in model.named_parameters() if "fc_cls" in n and p.grad is not None]
    assert gradients and all(g.isfinite().all() and g.abs().sum() > 0 for g in gradients)

    model.eval()
    with torch.no_grad():
        results = model.simple_test(image, metas, rescale=True)
    assert len(results) == 2
    for per_class, per_class_masks in results:
        assert len(per_class) == len(per_class_masks) == 3
        scores = np.concatenate([c[:, 4] for c in per_class])
        assert len(scores) and (scores > 0).all() and (scores < 1).all()


def test_test_time_scores_are_sigmoids_times_the_backgrounds_absence():
    head = build_head(bbox_head(NAMES[0]))
    x = torch.tensor([[1.0, -2.0, 0.5, 3.0], [100.0, -1e4, 1e4, -1e4], [0.0, 0.0, 0.0, 1e4]])
    rois = torch.tensor([[0, 1.0, 1, 9, 9]] * 3)
    given = x.clone()
    _, scores = head.get_bboxes(
        rois, given, torch.zeros(3, 12), (16, 16), np.ones(4, dtype=np.float32), cfg=None
    )
    expected = x.double().sigmoid()
    expected[:, :3] *= 1 - expected[:, 3:]
    torch.testing.assert_close(scores.double(), expected, rtol=1e-6, atol=1e-12)
    assert torch.equal(given, x) and scores.shape == (3, 4)


def test_the_foreground_only_reimplementation_keeps_mmdets_softmax():
    head = build_head(bbox_head(NAMES[1]))
    x = torch.randn(3, 4)
    rois = torch.tensor([[0, 1.0, 1, 9, 9]] * 3)
    _, scores = head.get_bboxes(rois, x, torch.zeros(3, 12), (16, 16), np.ones(4, dtype=np.float32), cfg=None)
    torch.testing.assert_close(scores, x.softmax(-1))


def test_accuracy_is_distinguished_for_objectness_and_classes():
    loss = build_head(bbox_head(NAMES[0])).loss_cls
    #                 classes        background: present where above 0
    x = torch.tensor([[3.0, 0, 1, -1], [0, 0, 5, 0.2], [9, 1, 0, 2.0], [0, 1, 0, -3]])
    accuracies = loss.get_accuracy(x, torch.tensor([0, 1, 3, 3]))
    assert accuracies["acc_objectness"].item() == 50  # rows 0 and 2
    assert accuracies["acc_classes"].item() == 50  # row 0 of rows 0 and 1
    nothing = loss.get_accuracy(x, torch.full((4,), 3))
    assert nothing["acc_classes"].item() == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_head_of_another_number_of_classes_is_refused(name):
    config = dict(bbox_head(name), num_classes=5)
    if name == NAMES[1]:  # mmdet does not ask a loss without channels of its own
        head = build_head(config)
        with pytest.raises(ValueError, match="for 3 class counts"):
            head.loss_cls(torch.zeros(1, 6), torch.tensor([0]))
    else:
        with pytest.raises(ValueError, match="the head has 5 classes but the loss has counts for 3"):
            build_head(config)


def test_an_authors_checkpoint_loads_strictly_and_silently_with_mmcv(tmp_path, capsys):
    """Their models carry the loss's buffers under the head's name; ours carry none, and load both ways."""
    model = detector(NAMES[0], stages=2)
    ours = model.state_dict()
    assert not [k for k in ours if "loss_cls" in k]
    theirs = dict(ours)
    n = torch.tensor([*COUNTS, sum(COUNTS) * 6.3313])
    for stage in range(2):
        theirs[f"roi_head.bbox_head.{stage}.loss_cls.sample_n"] = n
        theirs[f"roi_head.bbox_head.{stage}.loss_cls.detection_cls_weight"] = torch.ones(1, 4)
    for number, state in enumerate((ours, theirs)):
        path = tmp_path / f"{number}.pth"
        torch.save({"state_dict": state, "meta": {}}, path)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*counts.*")
            load_checkpoint(model, str(path), map_location="cpu", strict=True)
            load_checkpoint(model, str(path), map_location="cpu", strict=False)
    printed = capsys.readouterr()
    assert "not match" not in printed.out + printed.err
