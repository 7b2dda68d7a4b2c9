# A Mask R-CNN of about a million parameters with the ECM loss, for CPUs and the synthetic dataset of
# `python -m ecm_cluster.synthesize` (24 classes, 600 and 100 images of 128 pixels): a smaller version of
# ecm/mask_rcnn_r50_1x.py for 2 ranks with 4 images each.
_base_ = ['_base_/models/mask_rcnn_r50_fpn.py', '_base_/runtime.py']

data_root = 'data/demo/'
num_classes = 24


def sampler(proposals):
    return dict(num=64, add_gt_as_proposals=proposals)


model = dict(
    backbone=dict(
        depth=18,
        base_channels=16,
        frozen_stages=-1,
        norm_cfg=dict(type='GN', num_groups=8),  # four images per rank are too few for batch statistics
        norm_eval=False,
        init_cfg=None),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=32, num_outs=4),
    rpn_head=dict(
        in_channels=32,
        feat_channels=32,
        anchor_generator=dict(scales=[4], ratios=[1.0], strides=[4, 8, 16, 32])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=32, featmap_strides=[4, 8, 16, 32], finest_scale=28),
        bbox_head=dict(
            in_channels=32,
            fc_out_channels=128,
            num_classes=num_classes,
            reg_class_agnostic=True,
            loss_cls=dict(class_counts=data_root + 'annotations/lvis_v1_train.json')),
        mask_roi_extractor=dict(
            roi_layer=dict(output_size=7), out_channels=32, featmap_strides=[4, 8, 16, 32], finest_scale=28),
        mask_head=dict(num_convs=1, in_channels=32, conv_out_channels=32, num_classes=num_classes)),
    train_cfg=dict(
        rpn=dict(sampler=sampler(False)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=sampler(True), mask_size=14)),
    test_cfg=dict(
        rpn=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(score_thr=0.01, max_per_img=50)))  # an image has at most six objects

img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', img_scale=(128, 128), keep_ratio=True),
    dict(type='RandomFlip', flip_ratio=0.5),
    dict(type='Normalize', **img_norm_cfg),
    dict(type='Pad', size_divisor=32),
    dict(type='DefaultFormatBundle'),
    dict(type='Collect', keys=['img', 'gt_bboxes', 'gt_labels', 'gt_masks']),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='MultiScaleFlipAug', img_scale=(128, 128), flip=False, transforms=[
        dict(type='Resize', keep_ratio=True),
        dict(type='RandomFlip'),
        dict(type='Normalize', **img_norm_cfg),
        dict(type='Pad', size_divisor=32),
        dict(type='ImageToTensor', keys=['img']),
        dict(type='Collect', keys=['img']),
    ]),
]
train = dict(type='LVISFromFile', ann_file=data_root + 'annotations/lvis_v1_train.json', img_prefix=data_root,
             pipeline=train_pipeline)
val = dict(type='LVISFromFile', ann_file=data_root + 'annotations/lvis_v1_val.json', img_prefix=data_root,
           pipeline=test_pipeline)
data = dict(
    samples_per_gpu=4,
    workers_per_gpu=0,
    # for classes in fewer than 3 % of the images: in 600 images none is as rare as LVIS's 0.1 %
    train=dict(type='ClassBalancedDataset', oversample_thr=0.03, dataset=train),
    val=val,
    test=val)
del train, val

optimizer = dict(type='AdamW', lr=1e-3, weight_decay=1e-4)
optimizer_config = dict(grad_clip=dict(max_norm=5, norm_type=2))
lr_config = dict(policy='step', warmup='linear', warmup_iters=50, warmup_ratio=1e-2, step=[3])
runner = dict(type='EpochBasedRunner', max_epochs=4)
evaluation = dict(interval=4, metric=['bbox', 'segm'])
log_config = dict(interval=10)
dist_params = dict(backend='gloo')
