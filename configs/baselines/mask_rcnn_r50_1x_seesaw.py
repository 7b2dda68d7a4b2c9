# Seesaw loss (Wang et al., CVPR 2021) with its published p and q; otherwise ecm/mask_rcnn_r50_1x.py.
_base_ = '../ecm/mask_rcnn_r50_1x.py'

model = dict(roi_head=dict(bbox_head=dict(loss_cls=dict(
    _delete_=True, type='SeesawLoss', p=0.8, q=2.0, num_classes={{_base_.num_classes}}, loss_weight=1.0))))
