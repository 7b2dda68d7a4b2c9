# Mask R-CNN with ResNet-50 and FPN for long-tailed classes: mmdet's model with cosine classifiers for boxes and masks,
# the ECM loss, and LVIS's limit of 300 detections per image. The dataset defines the number of classes and their
# instance counts; a config combines both (see ecm/mask_rcnn_r50_1x.py).


def assigner(pos, neg, least):
    """mmdet's MaxIoUAssigner with bounded memory: an image of LVIS may have hundreds of objects."""
    return dict(type='MemorySafeMaxIoUAssigner', pos_iou_thr=pos, neg_iou_thr=neg, min_pos_iou=least,
                match_low_quality=True, ignore_iof_thr=-1)


def sampler(num, positive, with_objects):
    return dict(type='RandomSampler', num=num, pos_fraction=positive, neg_pos_ub=-1,
                add_gt_as_proposals=with_objects)


def nms(iou):
    return dict(type='nms', iou_threshold=iou)


def coder(*stds):
    return dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=list(stds))


def roi_extractor(size):
    return dict(type='SingleRoIExtractor', out_channels=256, featmap_strides=[4, 8, 16, 32],
                roi_layer=dict(type='RoIAlign', output_size=size, sampling_ratio=0))


model = dict(
    type='MaskRCNN',
    backbone=dict(
        type='ResNet',
        depth=50,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        frozen_stages=1,
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=True,
        style='pytorch',
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')),
    neck=dict(type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=5),
    rpn_head=dict(
        type='RPNHead',
        in_channels=256,
        feat_channels=256,
        anchor_generator=dict(
            type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]),
        bbox_coder=coder(1.0, 1.0, 1.0, 1.0),
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0)),
    roi_head=dict(
        type='StandardRoIHead',
        bbox_roi_extractor=roi_extractor(7),
        bbox_head=dict(
            type='Shared2FCBBoxHead',
            in_channels=256,
            fc_out_channels=1024,
            roi_feat_size=7,
            num_classes=1203,
            bbox_coder=coder(0.1, 0.1, 0.2, 0.2),
            reg_class_agnostic=False,
            # the spelling of mmdet
            cls_predictor_cfg=dict(type='NormedLinear', tempearture=20),
            loss_cls=dict(type='EffectiveClassMarginLoss', fg_bg_ratio=6.3313, loss_weight=1.0),
            loss_bbox=dict(type='L1Loss', loss_weight=1.0)),
        mask_roi_extractor=roi_extractor(14),
        mask_head=dict(
            type='FCNMaskHead',
            num_convs=4,
            in_channels=256,
            conv_out_channels=256,
            num_classes=1203,
            predictor_cfg=dict(type='NormedConv2d', tempearture=20),
            loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0))),
    train_cfg=dict(
        rpn=dict(
            assigner=assigner(0.7, 0.3, 0.3),
            sampler=sampler(256, 0.5, with_objects=False),
            allowed_border=-1,
            pos_weight=-1,
            debug=False),
        rpn_proposal=dict(nms_pre=2000, max_per_img=1000, nms=nms(0.7), min_bbox_size=0),
        rcnn=dict(
            assigner=assigner(0.5, 0.5, 0.5),
            sampler=sampler(512, 0.25, with_objects=True),
            mask_size=28,
            pos_weight=-1,
            debug=False)),
    test_cfg=dict(
        rpn=dict(nms_pre=1000, max_per_img=1000, nms=nms(0.7), min_bbox_size=0),
        rcnn=dict(score_thr=1e-4, nms=nms(0.5), max_per_img=300, mask_thr_binary=0.5)))
