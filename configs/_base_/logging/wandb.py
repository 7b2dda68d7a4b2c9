# Weights & Biases in addition to the text log (pip install 'ecm-cluster[trackers]'). Add it to the _base_ list of your
# config, beside _base_/logging/tensorboard.py or alone:
#   _base_ = ['ecm/mask_rcnn_r50_1x.py', '_base_/logging/wandb.py']
# Compute nodes often have no network, so it writes into the run; `wandb sync RUN/trackers/wandb/offline-run-*` uploads.
# All attempts of a run are one W&B run. Same as the job key `trackers: {wandb: {…}}`; see docs/guide/tracking.md.
tracker_wandb = dict(project='ecm-cluster', mode='offline')
