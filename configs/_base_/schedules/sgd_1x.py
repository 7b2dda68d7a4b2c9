# 12 epochs on 8 GPUs with 2 images each, as published: the long linear warm-up and gradient clipping at 5 are the
# authors' settings for LVIS.
optimizer = dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4)
optimizer_config = dict(grad_clip=dict(max_norm=5, norm_type=2))
lr_config = dict(policy='step', warmup='linear', warmup_iters=10000, warmup_ratio=1e-4, step=[8, 11])
runner = dict(type='EpochBasedRunner', max_epochs=12)
evaluation = dict(interval=12, metric=['bbox', 'segm'])
auto_scale_lr = dict(enable=False, base_batch_size=16)
