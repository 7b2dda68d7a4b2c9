# TensorBoard in addition to the text log (pip install tensorboard). Add it to the _base_ list of your config:
#   _base_ = ['ecm/mask_rcnn_r50_1x.py', '_base_/logging/tensorboard.py']
custom_hooks = [dict(type='TensorboardLoggerHook', interval=50, priority='VERY_LOW')]
