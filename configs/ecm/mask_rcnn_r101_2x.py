# ECM, Mask R-CNN R101 2x. Reported on LVIS v1 val: box AP 29.4, mask AP 28.7.
_base_ = 'mask_rcnn_r50_2x.py'

model = dict(backbone=dict(depth=101, init_cfg=dict(checkpoint='torchvision://resnet101')))
