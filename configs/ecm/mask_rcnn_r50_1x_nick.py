# The run of the re-implementation (github.com/nicholasdehnen/ECM-Loss): its loss, and 8 GPUs with 3 images each at the
# same learning rate. The margin exponent of its runs is 1, due to operator precedence in its code; the paper's value is
# margin_exponent=0.25. For its logging to Weights & Biases see _base_/logging/.
_base_ = 'mask_rcnn_r50_1x.py'

model = dict(roi_head=dict(bbox_head=dict(loss_cls=dict(
    _delete_=True,
    type='EffectiveClassMarginLossNick',
    class_counts={{_base_.class_counts}},
    margin_exponent=1.0,
    loss_weight=1.0))))
data = dict(samples_per_gpu=3)
auto_scale_lr = dict(base_batch_size=24)
