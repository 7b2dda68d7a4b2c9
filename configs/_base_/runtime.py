# Checkpoints, logs and processes: mmdet's defaults.
custom_imports = dict(imports=['mmdet_ext.register'], allow_failed_imports=False)

checkpoint_config = dict(interval=1)
log_config = dict(interval=50, hooks=[dict(type='TextLoggerHook')])
# custom_hooks is not set here, so that a config of logging/ can be added to a _base_ list

dist_params = dict(backend='nccl')
log_level = 'INFO'
load_from = None
resume_from = None
workflow = [('train', 1)]
opencv_num_threads = 0  # OpenCV threads in each worker would overload the node
mp_start_method = 'fork'
