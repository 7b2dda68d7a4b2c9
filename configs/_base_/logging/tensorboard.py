# TensorBoard in addition to the text log (pip install 'ecm-cluster[trackers]'). Add it to the _base_ list of your
# config, beside _base_/logging/wandb.py or alone:
#   _base_ = ['ecm/mask_rcnn_r50_1x.py', '_base_/logging/tensorboard.py']
# A point for each line of the log, and the scores of each evaluated checkpoint, in trackers/tensorboard of the run.
# Same as the job key `trackers: {tensorboard: {}}`; docs/guide/tracking.md lists the options.
tracker_tensorboard = dict()
