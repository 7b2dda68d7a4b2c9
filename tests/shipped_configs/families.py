"""Which of mmdet's shipped configs stand for their family: one for each code path that the others do not meet.

Deeper or wider backbones of the same kind, longer schedules and multi-scale variants are left out: they are the same
code with other numbers.
"""

from __future__ import annotations

# family (a folder of mmdet's configs): its representatives, the most characteristic one first
FAMILIES: dict[str, tuple[str, ...]] = {
    "albu_example": ("mask_rcnn_r50_fpn_albu_1x_coco",),
    "atss": ("atss_r50_fpn_1x_coco",),
    "autoassign": ("autoassign_r50_fpn_8x2_1x_coco",),
    "carafe": ("mask_rcnn_r50_fpn_carafe_1x_coco",),
    "cascade_rcnn": ("cascade_mask_rcnn_r50_fpn_1x_coco", "cascade_rcnn_r50_fpn_1x_coco"),
    "cascade_rpn": ("crpn_faster_rcnn_r50_caffe_fpn_1x_coco", "crpn_fast_rcnn_r50_caffe_fpn_1x_coco",
                    "crpn_r50_caffe_fpn_1x_coco"),
    "centernet": ("centernet_resnet18_dcnv2_140e_coco", "centernet_resnet18_140e_coco"),
    "centripetalnet": ("centripetalnet_hourglass104_mstest_16x6_210e_coco",),
    "cityscapes": ("mask_rcnn_r50_fpn_1x_cityscapes", "faster_rcnn_r50_fpn_1x_cityscapes"),
    "convnext": ("mask_rcnn_convnext-t_p4_w7_fpn_fp16_ms-crop_3x_coco",
                 "cascade_mask_rcnn_convnext-t_p4_w7_fpn_giou_4conv1f_fp16_ms-crop_3x_coco"),
    "cornernet": ("cornernet_hourglass104_mstest_8x6_210e_coco",),
    "dcn": ("mask_rcnn_r50_fpn_dconv_c3-c5_1x_coco", "faster_rcnn_r50_fpn_dpool_1x_coco"),
    "dcnv2": ("mask_rcnn_r50_fpn_fp16_mdconv_c3-c5_1x_coco", "faster_rcnn_r50_fpn_mdpool_1x_coco"),
    "ddod": ("ddod_r50_fpn_1x_coco",),
    "deepfashion": ("mask_rcnn_r50_fpn_15e_deepfashion",),
    "deformable_detr": ("deformable_detr_r50_16x2_50e_coco", "deformable_detr_twostage_refine_r50_16x2_50e_coco"),
    "detectors": ("detectors_htc_r50_1x_coco", "cascade_rcnn_r50_sac_1x_coco", "cascade_rcnn_r50_rfp_1x_coco"),
    "detr": ("detr_r50_8x2_150e_coco",),
    "double_heads": ("dh_faster_rcnn_r50_fpn_1x_coco",),
    "dyhead": ("atss_r50_fpn_dyhead_1x_coco", "atss_r50_caffe_fpn_dyhead_1x_coco"),
    "dynamic_rcnn": ("dynamic_rcnn_r50_fpn_1x_coco",),
    "efficientnet": ("retinanet_effb3_fpn_crop896_8x4_1x_coco",),
    "empirical_attention": ("faster_rcnn_r50_fpn_attention_1111_dcn_1x_coco",),
    "fast_rcnn": ("fast_rcnn_r50_fpn_1x_coco",),
    "faster_rcnn": ("faster_rcnn_r50_fpn_1x_coco", "faster_rcnn_r50_caffe_c4_1x_coco",
                    "faster_rcnn_r50_fpn_ohem_1x_coco", "faster_rcnn_r50_fpn_soft_nms_1x_coco",
                    "faster_rcnn_r50_fpn_fp16_1x_coco", "faster_rcnn_r50_fpn_ciou_1x_coco",
                    "faster_rcnn_r50_fpn_bounded_iou_1x_coco"),
    "fcos": ("fcos_center-normbbox-centeronreg-giou_r50_caffe_fpn_gn-head_1x_coco",),
    "foveabox": ("fovea_align_r50_fpn_gn-head_4x4_2x_coco", "fovea_r50_fpn_4x4_1x_coco"),
    "fpg": ("mask_rcnn_r50_fpg-chn128_crop640_50e_coco", "retinanet_r50_fpg-chn128_crop640_50e_coco"),
    "free_anchor": ("retinanet_free_anchor_r50_fpn_1x_coco",),
    "fsaf": ("fsaf_r50_fpn_1x_coco",),
    "gcnet": ("mask_rcnn_r50_fpn_syncbn-backbone_r4_gcb_c3-c5_1x_coco",
              "mask_rcnn_x101_32x4d_fpn_syncbn-backbone_r4_gcb_c3-c5_1x_coco"),
    "gfl": ("gfl_r50_fpn_1x_coco",),
    "ghm": ("retinanet_ghm_r50_fpn_1x_coco",),
    "gn": ("mask_rcnn_r50_fpn_gn-all_2x_coco",),
    "gn+ws": ("mask_rcnn_r50_fpn_gn_ws-all_2x_coco",),
    "grid_rcnn": ("grid_rcnn_r50_fpn_gn-head_1x_coco",),
    "groie": ("mask_rcnn_r50_fpn_groie_1x_coco", "grid_rcnn_r50_fpn_gn-head_groie_1x_coco"),
    "guided_anchoring": ("ga_faster_r50_fpn_1x_coco", "ga_retinanet_r50_fpn_1x_coco", "ga_rpn_r50_fpn_1x_coco",
                         "ga_fast_r50_caffe_fpn_1x_coco"),
    "hrnet": ("mask_rcnn_hrnetv2p_w18_1x_coco", "fcos_hrnetv2p_w18_gn-head_4x4_1x_coco"),
    "htc": ("htc_r50_fpn_1x_coco", "htc_without_semantic_r50_fpn_1x_coco"),
    "instaboost": ("mask_rcnn_r50_fpn_instaboost_4x_coco",),
    "lad": ("lad_r50_paa_r101_fpn_coco_1x",),
    "ld": ("ld_r18_gflv1_r101_fpn_coco_1x",),
    "legacy_1.x": ("mask_rcnn_r50_fpn_1x_coco_v1", "ssd300_coco_v1", "retinanet_r50_fpn_1x_coco_v1"),
    "libra_rcnn": ("libra_faster_rcnn_r50_fpn_1x_coco", "libra_retinanet_r50_fpn_1x_coco",
                   "libra_fast_rcnn_r50_fpn_1x_coco"),
    "lvis": ("mask_rcnn_r50_fpn_sample1e-3_mstrain_1x_lvis_v1", "mask_rcnn_r50_fpn_sample1e-3_mstrain_2x_lvis_v0.5"),
    "mask2former": ("mask2former_r50_lsj_8x2_50e_coco", "mask2former_r50_lsj_8x2_50e_coco-panoptic"),
    "mask_rcnn": ("mask_rcnn_r50_fpn_1x_coco", "mask_rcnn_r50_caffe_c4_1x_coco", "mask_rcnn_r50_fpn_poly_1x_coco",
                  "mask_rcnn_r50_fpn_1x_wandb_coco"),
    "maskformer": ("maskformer_r50_mstrain_16x1_75e_coco",),
    "ms_rcnn": ("ms_rcnn_r50_fpn_1x_coco",),
    "nas_fcos": ("nas_fcos_nashead_r50_caffe_fpn_gn-head_4x4_1x_coco",
                 "nas_fcos_fcoshead_r50_caffe_fpn_gn-head_4x4_1x_coco"),
    "nas_fpn": ("retinanet_r50_nasfpn_crop640_50e_coco",),
    "objects365": ("faster_rcnn_r50_fpn_16x4_1x_obj365v1", "retinanet_r50_fpn_1x_obj365v2",
                   "faster_rcnn_r50_fpn_syncbn_1350k_obj365v1", "retinanet_r50_fpn_syncbn_1350k_obj365v1"),
    "openimages": ("faster_rcnn_r50_fpn_32x2_1x_openimages", "faster_rcnn_r50_fpn_32x2_1x_openimages_challenge",
                   "faster_rcnn_r50_fpn_32x2_cas_1x_openimages", "ssd300_32x8_36e_openimages"),
    "paa": ("paa_r50_fpn_1x_coco",),
    "pafpn": ("faster_rcnn_r50_pafpn_1x_coco",),
    "panoptic_fpn": ("panoptic_fpn_r50_fpn_1x_coco", "panoptic_fpn_r50_fpn_mstrain_3x_coco"),
    "pascal_voc": ("faster_rcnn_r50_fpn_1x_voc0712", "retinanet_r50_fpn_1x_voc0712",
                   "faster_rcnn_r50_fpn_1x_voc0712_cocofmt",
                   "faster_rcnn_r50_caffe_c4_mstrain_18k_voc0712", "ssd300_voc0712"),
    "pisa": ("pisa_faster_rcnn_r50_fpn_1x_coco", "pisa_retinanet_r50_fpn_1x_coco", "pisa_ssd300_coco",
             "pisa_mask_rcnn_x101_32x4d_fpn_1x_coco"),
    "point_rend": ("point_rend_r50_caffe_fpn_mstrain_1x_coco",),
    "pvt": ("retinanet_pvt-t_fpn_1x_coco", "retinanet_pvtv2-b0_fpn_1x_coco"),
    "queryinst": ("queryinst_r50_fpn_1x_coco",),
    "regnet": ("mask_rcnn_regnetx-400MF_fpn_mstrain-poly_3x_coco", "mask_rcnn_regnetx-3.2GF_fpn_mdconv_c3-c5_1x_coco"),
    "reppoints": ("reppoints_moment_r50_fpn_1x_coco", "bbox_r50_grid_fpn_gn-neck+head_1x_coco"),
    "res2net": ("mask_rcnn_r2_101_fpn_2x_coco",),
    "resnest": ("faster_rcnn_s50_fpn_syncbn-backbone+head_mstrain-range_1x_coco",),
    "resnet_strikes_back": ("mask_rcnn_r50_fpn_rsb-pretrain_1x_coco",),
    "retinanet": ("retinanet_r50_fpn_1x_coco", "retinanet_r18_fpn_1x8_1x_coco",
                  "ascend_retinanet_r18_fpn_1x8_1x_coco"),
    "rfnext": ("rfnext_search_mask_rcnn_pvtv2-b0_fpn_1x_coco",
               "rfnext_fixed_multi_branch_mask_rcnn_pvtv2-b0_fpn_1x_coco",
               "rfnext_fixed_single_branch_cascade_mask_rcnn_convnext-t_p4_w7_fpn_giou_4conv1f_fp16_ms-crop_3x_coco",
               "rfnext_fixed_multi_branch_cascade_mask_rcnn_hrnetv2p_w18_20e_coco"),
    "rpn": ("rpn_r50_fpn_1x_coco", "rpn_r50_caffe_c4_1x_coco"),
    "sabl": ("sabl_faster_rcnn_r50_fpn_1x_coco", "sabl_retinanet_r50_fpn_1x_coco"),
    "scnet": ("scnet_r50_fpn_1x_coco",),
    "scratch": ("mask_rcnn_r50_fpn_gn-all_scratch_6x_coco",),
    "seesaw_loss": ("mask_rcnn_r50_fpn_random_seesaw_loss_normed_mask_mstrain_2x_lvis_v1",
                    "mask_rcnn_r50_fpn_sample1e-3_seesaw_loss_mstrain_2x_lvis_v1"),
    "selfsup_pretrain": ("mask_rcnn_r50_fpn_mocov2-pretrain_1x_coco",),
    "simple_copy_paste": ("mask_rcnn_r50_fpn_syncbn-all_rpn-2conv_ssj_scp_32x2_90k_coco",),
    "solo": ("solo_r50_fpn_1x_coco", "decoupled_solo_light_r50_fpn_3x_coco", "decoupled_solo_r50_fpn_1x_coco"),
    "solov2": ("solov2_light_r18_fpn_3x_coco",),
    "sparse_rcnn": ("sparse_rcnn_r50_fpn_1x_coco",),
    "ssd": ("ssd300_coco", "ssdlite_mobilenetv2_scratch_600e_coco", "ssd300_fp16_coco", "ssd512_coco",
            "ascend_ssd300_coco"),
    "strong_baselines": ("mask_rcnn_r50_fpn_syncbn-all_rpn-2conv_lsj_100e_coco",),
    "swin": ("mask_rcnn_swin-t-p4-w7_fpn_fp16_ms-crop-3x_coco", "retinanet_swin-t-p4-w7_fpn_1x_coco"),
    "timm_example": ("retinanet_timm_tv_resnet50_fpn_1x_coco", "retinanet_timm_efficientnet_b1_fpn_1x_coco"),
    "tood": ("tood_r50_fpn_1x_coco", "tood_r50_fpn_anchor_based_1x_coco",
             "tood_r101_fpn_dconv_c3-c5_mstrain_2x_coco"),
    "tridentnet": ("tridentnet_r50_caffe_1x_coco",),
    "vfnet": ("vfnet_r50_fpn_1x_coco", "vfnet_r2_101_fpn_mdconv_c3-c5_mstrain_2x_coco"),
    "wider_face": ("ssd300_wider_face",),
    "yolact": ("yolact_r50_1x8_coco",),
    "yolo": ("yolov3_d53_320_273e_coco", "yolov3_mobilenetv2_320_300e_coco", "yolov3_d53_fp16_mstrain-608_273e_coco"),
    "yolof": ("yolof_r50_c5_8x8_1x_coco", "yolof_r50_c5_8x8_iter-1x_coco"),
    "yolox": ("yolox_tiny_8x8_300e_coco", "yolox_nano_8x8_300e_coco", "yolox_s_8x8_300e_coco"),
}
NO_FAMILY = ("_base_", "common")  # parts of configs, which cannot be trained alone

# what the short form trains: two stages with masks on LVIS with repeat-factor sampling, a Transformer, VOC, which is
# scored by mmdet's own rule, a detector with state of its own and a hook that changes the augmentations in mid-training
SHORT = ("lvis/mask_rcnn_r50_fpn_sample1e-3_mstrain_1x_lvis_v1", "detr/detr_r50_8x2_150e_coco",
         "pascal_voc/retinanet_r50_fpn_1x_voc0712", "yolox/yolox_tiny_8x8_300e_coco")
BY_ITERATIONS = "yolof/yolof_r50_c5_8x8_iter-1x_coco"  # trained again by the processes that a user starts


def chosen(words: list[str]) -> list[str]:
    """The configs, as ``family/name``, that families or single configs given on the command line mean; none: all.

    Raises:
        SystemExit: There is no such family or config among the representatives.
    """
    known = {family: [f"{family}/{name}" for name in names] for family, names in FAMILIES.items()}
    every = [config for configs in known.values() for config in configs]
    found = []
    for word in words or list(known):
        if word not in known and word not in every:
            raise SystemExit(f"shipped_configs: {word} is not among the families, {', '.join(known)}")
        found += known.get(word, [word])
    return list(dict.fromkeys(found))
