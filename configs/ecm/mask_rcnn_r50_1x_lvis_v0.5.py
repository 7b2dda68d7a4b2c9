# mask_rcnn_r50_1x.py on LVIS v0.5; there are no published results.
_base_ = [
    '../_base_/models/mask_rcnn_r50_fpn.py',
    '../_base_/datasets/lvis_v0.5.py',
    '../_base_/schedules/sgd_1x.py',
    '../_base_/runtime.py',
]
model = dict(roi_head=dict(
    bbox_head=dict(num_classes={{_base_.num_classes}}, loss_cls=dict(class_counts={{_base_.class_counts}})),
    mask_head=dict(num_classes={{_base_.num_classes}})))
