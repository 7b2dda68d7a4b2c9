# Cross-entropy loss; otherwise ecm/mask_rcnn_r50_1x.py.
_base_ = '../ecm/mask_rcnn_r50_1x.py'

model = dict(roi_head=dict(bbox_head=dict(loss_cls=dict(
    _delete_=True, type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0))))
