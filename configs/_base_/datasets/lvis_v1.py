# LVIS v1: 1,203 classes; repeat-factor sampling for classes in fewer than 0.1 % of the images.
dataset_type = 'LVISV1Dataset'
data_root = 'data/lvis_v1/'
num_classes = 1203
class_counts = data_root + 'annotations/lvis_v1_train.json'

img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', img_scale=[(1333, short) for short in range(640, 801, 32)], multiscale_mode='value',
         keep_ratio=True),
    dict(type='RandomFlip', flip_ratio=0.5),
    dict(type='Normalize', **img_norm_cfg),
    dict(type='Pad', size_divisor=32),
    dict(type='DefaultFormatBundle'),
    dict(type='Collect', keys=['img', 'gt_bboxes', 'gt_labels', 'gt_masks']),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='MultiScaleFlipAug', img_scale=(1333, 800), flip=False, transforms=[
        dict(type='Resize', keep_ratio=True),
        dict(type='RandomFlip'),
        dict(type='Normalize', **img_norm_cfg),
        dict(type='Pad', size_divisor=32),
        dict(type='ImageToTensor', keys=['img']),
        dict(type='Collect', keys=['img']),
    ]),
]

# img_prefix is the root: annotations refer to train2017/… or val2017/…, since LVIS draws its splits from both
train = dict(type=dataset_type, ann_file=data_root + 'annotations/lvis_v1_train.json', img_prefix=data_root,
             pipeline=train_pipeline)
val = dict(type=dataset_type, ann_file=data_root + 'annotations/lvis_v1_val.json', img_prefix=data_root,
           pipeline=test_pipeline)
data = dict(
    samples_per_gpu=2,
    workers_per_gpu=2,
    train=dict(type='ClassBalancedDataset', oversample_thr=1e-3, dataset=train),
    val=val,
    test=val)
del train, val
