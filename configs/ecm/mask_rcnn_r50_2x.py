# ECM, Mask R-CNN R50 2x. Reported on LVIS v1 val: box AP 27.9, mask AP 27.5.
_base_ = 'mask_rcnn_r50_1x.py'

lr_config = dict(step=[20, 22])
runner = dict(max_epochs=24)
evaluation = dict(interval=24)
