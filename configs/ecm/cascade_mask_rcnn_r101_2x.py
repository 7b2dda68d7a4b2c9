# ECM, Cascade Mask R-CNN R101 2x. Reported on LVIS v1 val: box AP 33.4, mask AP 30.6.
# mask_rcnn_r101_2x.py with mmdet's cascade: three box heads at IoU 0.5, 0.6 and 0.7 with the same loss.
_base_ = 'mask_rcnn_r101_2x.py'


def box_head(*stds):
    return dict(
        type='Shared2FCBBoxHead',
        in_channels=256,
        fc_out_channels=1024,
        roi_feat_size=7,
        num_classes={{_base_.num_classes}},
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=list(stds)),
        reg_class_agnostic=True,
        cls_predictor_cfg={{_base_.model.roi_head.bbox_head.cls_predictor_cfg}},
        loss_cls={{_base_.model.roi_head.bbox_head.loss_cls}},
        loss_bbox=dict(type='SmoothL1Loss', beta=1.0, loss_weight=1.0))


def sampling(iou):
    return dict(
        assigner=dict(type='MemorySafeMaxIoUAssigner', pos_iou_thr=iou, neg_iou_thr=iou, min_pos_iou=iou,
                      match_low_quality=False, ignore_iof_thr=-1),
        sampler={{_base_.model.train_cfg.rcnn.sampler}},
        mask_size=28,
        pos_weight=-1,
        debug=False)


model = dict(
    type='CascadeRCNN',
    rpn_head=dict(loss_bbox=dict(type='SmoothL1Loss', beta=1.0 / 9.0)),
    roi_head=dict(
        type='CascadeRoIHead',
        num_stages=3,
        stage_loss_weights=[1, 0.5, 0.25],
        bbox_head=[
            box_head(0.1, 0.1, 0.2, 0.2),
            box_head(0.05, 0.05, 0.1, 0.1),
            box_head(0.033, 0.033, 0.067, 0.067),
        ]),
    train_cfg=dict(
        rpn=dict(allowed_border=0),
        rpn_proposal=dict(max_per_img=2000),
        rcnn=[sampling(0.5), sampling(0.6), sampling(0.7)]))
