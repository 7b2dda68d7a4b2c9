# The authors' loss with the re-implementation's batch (github.com/nicholasdehnen/ECM-Loss): 8 GPUs with 3 images each
# at the same learning rate; the authors use 2.
_base_ = 'mask_rcnn_r50_1x.py'

data = dict(samples_per_gpu=3)
auto_scale_lr = dict(base_batch_size=24)
