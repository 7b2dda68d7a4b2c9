# Weights & Biases in addition to the text log (pip install wandb). Add it to the _base_ list of your config:
#   _base_ = ['ecm/mask_rcnn_r50_1x.py', '_base_/logging/wandb.py']
# Compute nodes often have no network access, so it writes to disk; `wandb sync` on the login node uploads. If
# WANDB_RUN_ID is set, all attempts of a run are one W&B run.
custom_hooks = [
    dict(type='WandbLoggerHook', interval=50, priority='VERY_LOW',
         init_kwargs=dict(project='ecm-cluster', mode='offline', resume='allow')),
]
