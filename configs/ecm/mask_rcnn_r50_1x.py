# Cho & Krähenbühl, "Long-tail Detection with Effective Class-Margins", ECCV 2022: Mask R-CNN R50 1x.
# Reported on LVIS v1 val: box AP 26.9, mask AP 26.4, with the authors' class weights, which are rounded in float32
# (class_weights='published'; 'exact' follows the formula).
_base_ = [
    '../_base_/models/mask_rcnn_r50_fpn.py',
    '../_base_/datasets/lvis_v1.py',
    '../_base_/schedules/sgd_1x.py',
    '../_base_/runtime.py',
]
model = dict(roi_head=dict(
    bbox_head=dict(num_classes={{_base_.num_classes}},
                   loss_cls=dict(class_counts={{_base_.class_counts}}, class_weights='published')),
    mask_head=dict(num_classes={{_base_.num_classes}})))
