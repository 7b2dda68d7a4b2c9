# The second run of the re-implementation: its loss with the authors' treatment of the background.
_base_ = 'mask_rcnn_r50_1x_nick.py'

model = dict(roi_head=dict(bbox_head=dict(loss_cls=dict(
    type='EffectiveClassMarginLossNickWAuthorBgHandling', fg_bg_ratio=6.3313))))
