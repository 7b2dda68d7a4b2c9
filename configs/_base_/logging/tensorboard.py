# TensorBoard beside the text log (pip install tensorboard). Put it into the _base_ list of a config of your own:
#   _base_ = ['ecm/mask_rcnn_r50_1x.py', '_base_/logging/tensorboard.py']
custom_hooks = [dict(type='TensorboardLoggerHook', interval=50, priority='VERY_LOW')]
