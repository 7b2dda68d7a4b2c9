"""Which file a name such as ``torchvision://resnet50`` stands for: facts, so that no framework is asked.

Taken from the tables that mmcv-full 1.7.2 carries (``model_zoo/*.json``) and, for names with a dot, from the
weight enumerations of torchvision 0.23; a test holds every name here equal to what mmcv makes of it. Families
that no detector builds on (AlexNet, SqueezeNet, video models, …) are left out.
"""

from __future__ import annotations

_PYTORCH = "https://download.pytorch.org/models/"
_OPENMMLAB = "https://download.openmmlab.com/"

# Name, file of IMAGENET1K_V1, file of IMAGENET1K_V2 if there is one. The bare name stands for V1, as it did
# before torchvision had versions.
_VERSIONED = """
mobilenet_v2 mobilenet_v2-b0353104 mobilenet_v2-7ebf99e0
mobilenet_v3_large mobilenet_v3_large-8738ca79 mobilenet_v3_large-5c1a4163
mobilenet_v3_small mobilenet_v3_small-047dcff4
regnet_x_16gf regnet_x_16gf-2007eb11 regnet_x_16gf-ba3796d7
regnet_x_1_6gf regnet_x_1_6gf-e3633e7f regnet_x_1_6gf-a12f2b72
regnet_x_32gf regnet_x_32gf-9d47f8d0 regnet_x_32gf-6eb8fdc6
regnet_x_3_2gf regnet_x_3_2gf-f342aeae regnet_x_3_2gf-7071aa85
regnet_x_400mf regnet_x_400mf-adf1edd5 regnet_x_400mf-62229a5f
regnet_x_800mf regnet_x_800mf-ad17e45c regnet_x_800mf-94a99ebd
regnet_x_8gf regnet_x_8gf-03ceed89 regnet_x_8gf-2b70d774
regnet_y_16gf regnet_y_16gf-9e6ed7dd regnet_y_16gf-3e4a00f9
regnet_y_1_6gf regnet_y_1_6gf-b11a554e regnet_y_1_6gf-0d7bc02a
regnet_y_32gf regnet_y_32gf-4dee3f7a regnet_y_32gf-8db6d4b5
regnet_y_3_2gf regnet_y_3_2gf-b5a9779c regnet_y_3_2gf-9180c971
regnet_y_400mf regnet_y_400mf-c65dace8 regnet_y_400mf-e6988f5f
regnet_y_800mf regnet_y_800mf-1b27b58c regnet_y_800mf-58fc7688
regnet_y_8gf regnet_y_8gf-d0d0e4a8 regnet_y_8gf-dc2b1b54
resnet101 resnet101-63fe2227 resnet101-cd907fc2
resnet152 resnet152-394f9c45 resnet152-f82ba261
resnet18 resnet18-f37072fd
resnet34 resnet34-b627a593
resnet50 resnet50-0676ba61 resnet50-11ad3fa6
resnext101_32x8d resnext101_32x8d-8ba56ff5 resnext101_32x8d-110c445d
resnext50_32x4d resnext50_32x4d-7cdf4587 resnext50_32x4d-1a0047aa
vgg11 vgg11-8a719046
vgg11_bn vgg11_bn-6002323d
vgg13 vgg13-19584684
vgg13_bn vgg13_bn-abd245e5
vgg16 vgg16-397923af
vgg16_bn vgg16_bn-6c64b313
vgg19 vgg19-dcbb9e9d
vgg19_bn vgg19_bn-c79401a0
wide_resnet101_2 wide_resnet101_2-32ee1156 wide_resnet101_2-d733dc28
wide_resnet50_2 wide_resnet50_2-95faca4d wide_resnet50_2-9ba9bcbe
"""

# the same columns; no bare name
_VERSIONED_ONLY = """
convnext_base convnext_base-6075fbad
convnext_large convnext_large-ea097f82
convnext_small convnext_small-0c510722
convnext_tiny convnext_tiny-983f1562
efficientnet_b0 efficientnet_b0_rwightman-7f5810bc
efficientnet_b1 efficientnet_b1_rwightman-bac287d4 efficientnet_b1-c27df63c
efficientnet_b2 efficientnet_b2_rwightman-c35c1473
efficientnet_b3 efficientnet_b3_rwightman-b3899882
efficientnet_b4 efficientnet_b4_rwightman-23ab8bcd
efficientnet_b5 efficientnet_b5_lukemelas-1a07897c
efficientnet_b6 efficientnet_b6_lukemelas-24a108a5
efficientnet_b7 efficientnet_b7_lukemelas-c5b4e57e
efficientnet_v2_l efficientnet_v2_l-59c71312
efficientnet_v2_m efficientnet_v2_m-dc08266a
efficientnet_v2_s efficientnet_v2_s-dd5fe13b
resnext101_64x4d resnext101_64x4d-173b62eb
swin_b swin_b-68c6b09e
swin_s swin_s-5e29d889
swin_t swin_t-704ceda3
swin_v2_b swin_v2_b-781e5279
swin_v2_s swin_v2_s-637d8ceb
swin_v2_t swin_v2_t-b137f0e2
vit_b_16 vit_b_16-c867db91
vit_b_32 vit_b_32-d86f8d99
vit_l_16 vit_l_16-852ce7e3
vit_l_32 vit_l_32-c7638314
"""

# name, file
_SINGLE = """
efficientnet_b0 efficientnet_b0_rwightman-3dd342df
efficientnet_b1 efficientnet_b1_rwightman-533bc792
efficientnet_b2 efficientnet_b2_rwightman-bcdf34b7
efficientnet_b3 efficientnet_b3_rwightman-cf984f9c
efficientnet_b4 efficientnet_b4_rwightman-7eb33cd5
efficientnet_b5 efficientnet_b5_lukemelas-b6417697
efficientnet_b6 efficientnet_b6_lukemelas-c76e70fd
efficientnet_b7 efficientnet_b7_lukemelas-dcc49843
"""

# below pretrain/third_party/
_THIRD_PARTY = """
vgg16_caffe vgg16_caffe-292e1171
detectron/resnet50_caffe resnet50_caffe-788b5fa3
resnet50_caffe resnet50_caffe-788b5fa3
detectron2/resnet50_caffe resnet50_msra-5891d200
detectron/resnet101_caffe resnet101_caffe-3ad79236
resnet101_caffe resnet101_caffe-3ad79236
detectron2/resnet101_caffe resnet101_msra-6cc46731
detectron2/resnext101_32x8d resnext101_32x8d-1516f1aa
resnext50_32x4d resnext50-32x4d-0ab1a123
resnext101_32x4d resnext101_32x4d-a5af3160
resnext101_64x4d resnext101_64x4d-ee2c6f71
contrib/resnet50_gn resnet50_gn_thangvubk-ad1730dd
detectron/resnet50_gn resnet50_gn-9186a21c
detectron/resnet101_gn resnet101_gn-cac0ab98
jhu/resnet50_gn_ws resnet50_gn_ws-15beedd8
jhu/resnet101_gn_ws resnet101_gn_ws-3e3c308c
jhu/resnext50_32x4d_gn_ws resnext50_32x4d_gn_ws-0d87ac85
jhu/resnext101_32x4d_gn_ws resnext101_32x4d_gn_ws-34ac1a9e
jhu/resnext50_32x4d_gn resnext50_32x4d_gn-c7e8b754
jhu/resnext101_32x4d_gn resnext101_32x4d_gn-ac3bb84e
msra/hrnetv2_w18_small hrnetv2_w18_small-b5a04e21
msra/hrnetv2_w18 hrnetv2_w18-00eb2006
msra/hrnetv2_w32 hrnetv2_w32-dc9eeb4f
msra/hrnetv2_w40 hrnetv2_w40-ed0b031c
msra/hrnetv2_w48 hrnetv2_w48-d2186c55
res2net101_v1d_26w_4s res2net101_v1d_26w_4s_mmdetv2-f0a600f9
regnetx_400mf regnetx_400mf-a5b10d96
regnetx_800mf regnetx_800mf-1f4be4c7
regnetx_1.6gf regnetx_1.6gf-5791c176
regnetx_3.2gf regnetx_3.2gf-c2599b0f
regnetx_4.0gf regnetx_4.0gf-a88f671e
regnetx_6.4gf regnetx_6.4gf-006af45d
regnetx_8.0gf regnetx_8.0gf-3c68abe7
regnetx_12gf regnetx_12gf-4c2a3350
resnet18_v1c resnet18_v1c-b5776b93
resnet50_v1c resnet50_v1c-2cccc1ad
resnet101_v1c resnet101_v1c-e67eebb6
contrib/mobilenet_v3_large mobilenet_v3_large-bc2c3fd3
contrib/mobilenet_v3_small mobilenet_v3_small-47085aa1
resnest50 resnest50_d2-7497a55b
resnest101 resnest101_d2-f3b931b2
resnest200 resnest200_d2-ca88e41f
darknet53 darknet53-a628ea1b
"""

_OTHER = """
mmdet/mobilenet_v2 mmdetection/v2.0/third_party/mobilenet_v2_batch256_imagenet-ff34753d
"""

# below mmclassification/v0/
_MMCLS = """
vgg11 vgg/vgg11_batch256_imagenet_20210208-4271cd6c
vgg13 vgg/vgg13_batch256_imagenet_20210208-4d1d6080
vgg16 vgg/vgg16_batch256_imagenet_20210208-db26f1a5
vgg19 vgg/vgg19_batch256_imagenet_20210208-e6920e4a
vgg11_bn vgg/vgg11_bn_batch256_imagenet_20210207-f244902c
vgg13_bn vgg/vgg13_bn_batch256_imagenet_20210207-1a8b7864
vgg16_bn vgg/vgg16_bn_batch256_imagenet_20210208-7e55cd29
vgg19_bn vgg/vgg19_bn_batch256_imagenet_20210208-da620c4f
resnet18 resnet/resnet18_8xb32_in1k_20210831-fbbb1da6
resnet34 resnet/resnet34_8xb32_in1k_20210831-f257d4e6
resnet50 resnet/resnet50_8xb32_in1k_20210831-ea4938fc
resnet101 resnet/resnet101_8xb32_in1k_20210831-539c63f8
resnet152 resnet/resnet152_8xb32_in1k_20210901-4d7582fa
resnet50_v1d resnet/resnetv1d50_b32x8_imagenet_20210531-db14775a
resnet101_v1d resnet/resnetv1d101_b32x8_imagenet_20210531-6e13bcd3
resnet152_v1d resnet/resnetv1d152_b32x8_imagenet_20210531-278cf22a
resnext50_32x4d resnext/resnext50_32x4d_b32x8_imagenet_20210429-56066e27
resnext101_32x4d resnext/resnext101_32x4d_b32x8_imagenet_20210506-e0fa3dd5
resnext101_32x8d resnext/resnext101_32x8d_b32x8_imagenet_20210506-23a247d5
resnext152_32x4d resnext/resnext152_32x4d_b32x8_imagenet_20210524-927787be
se-resnet50 se-resnet/se-resnet50_batch256_imagenet_20200804-ae206104
se-resnet101 se-resnet/se-resnet101_batch256_imagenet_20200804-ba5b51d4
resnest50 resnest/resnest50_imagenet_converted-1ebf0afe
resnest101 resnest/resnest101_imagenet_converted-032caa52
resnest200 resnest/resnest200_imagenet_converted-581a60f2
resnest269 resnest/resnest269_imagenet_converted-59930960
shufflenet_v1 shufflenet_v1/shufflenet_v1_batch1024_imagenet_20200804-5d6cec73
shufflenet_v2 shufflenet_v2/shufflenet_v2_batch1024_imagenet_20200812-5bf4721e
mobilenet_v2 mobilenet_v2/mobilenet_v2_batch256_imagenet_20200708-3b2dc3af
mobilenet_v3_small mobilenet_v3/convert/mobilenet_v3_small-8427ecf0
mobilenet_v3_large mobilenet_v3/convert/mobilenet_v3_large-3ea3c186
repvgg_A0 repvgg/repvgg-A0_3rdparty_4xb64-coslr-120e_in1k_20210909-883ab98c
repvgg_A1 repvgg/repvgg-A1_3rdparty_4xb64-coslr-120e_in1k_20210909-24003a24
repvgg_A2 repvgg/repvgg-A2_3rdparty_4xb64-coslr-120e_in1k_20210909-97d7695a
repvgg_B0 repvgg/repvgg-B0_3rdparty_4xb64-coslr-120e_in1k_20210909-446375f4
repvgg_B1 repvgg/repvgg-B1_3rdparty_4xb64-coslr-120e_in1k_20210909-750cdf67
repvgg_B1g2 repvgg/repvgg-B1g2_3rdparty_4xb64-coslr-120e_in1k_20210909-344f6422
repvgg_B1g4 repvgg/repvgg-B1g4_3rdparty_4xb64-coslr-120e_in1k_20210909-d4c1a642
repvgg_B2 repvgg/repvgg-B2_3rdparty_4xb64-coslr-120e_in1k_20210909-bd6b937c
repvgg_B2g4 repvgg/repvgg-B2g4_3rdparty_4xb64-autoaug-lbs-mixup-coslr-200e_in1k_20210909-7b7955f0
repvgg_B3 repvgg/repvgg-B3_3rdparty_4xb64-autoaug-lbs-mixup-coslr-200e_in1k_20210909-dda968bf
repvgg_B3g4 repvgg/repvgg-B3g4_3rdparty_4xb64-autoaug-lbs-mixup-coslr-200e_in1k_20210909-4e54846a
repvgg_D2se repvgg/repvgg-D2se_3rdparty_4xb64-autoaug-lbs-mixup-coslr-200e_in1k_20210909-cf3139b7
res2net101_w26 res2net/res2net101-w26-s4_3rdparty_8xb32_in1k_20210927-870b6c36
res2net50_w14 res2net/res2net50-w14-s8_3rdparty_8xb32_in1k_20210927-bc967bf1
res2net50_w26 res2net/res2net50-w26-s8_3rdparty_8xb32_in1k_20210927-f547a94b
swin_tiny swin-transformer/swin_tiny_224_b16x64_300e_imagenet_20210616_090925-66df6be6
swin_small swin-transformer/swin_small_224_b16x64_300e_imagenet_20210615_110219-7f9d988b
swin_base swin-transformer/convert/swin_base_patch4_window7_224_22kto1k-f967f799
swin_large swin-transformer/convert/swin_large_patch4_window7_224_22kto1k-5f0996db
t2t_vit_t_14 t2t-vit/t2t-vit-t-14_3rdparty_8xb64_in1k_20210928-b7c09b62
t2t_vit_t_19 t2t-vit/t2t-vit-t-19_3rdparty_8xb64_in1k_20210928-7f1478d5
t2t_vit_t_24 t2t-vit/t2t-vit-t-24_3rdparty_8xb64_in1k_20210928-fe95a61b
tnt_small tnt/tnt-small-p16_3rdparty_in1k_20210903-c56ee7df
vit_base_p16 vit/finetune/vit-base-p16_in21k-pre-3rdparty_ft-64xb64_in1k-384_20210928-98e8652b
vit_base_p32 vit/finetune/vit-base-p32_in21k-pre-3rdparty_ft-64xb64_in1k-384_20210928-9cea8599
vit_large_p16 vit/finetune/vit-large-p16_in21k-pre-3rdparty_ft-64xb64_in1k-384_20210928-b20ba619
"""

# Published names whose suffix is not the start of the file's sha256: what that starts with ("": not known).
# Reported in pytorch/vision issue 7744 (and the later names of those files) and in mmcv issue 600.
WRONG_SUFFIX = {
    "efficientnet_b0_rwightman-3dd342df.pth": "7f5810bc",
    "efficientnet_b1_rwightman-533bc792.pth": "",
    "efficientnet_b2_rwightman-bcdf34b7.pth": "c35c1473",
    "efficientnet_b3_rwightman-cf984f9c.pth": "b3899882",
    "efficientnet_b4_rwightman-7eb33cd5.pth": "23ab8bcd",
    "efficientnet_b5_lukemelas-b6417697.pth": "1a07897c",
    "efficientnet_b6_lukemelas-c76e70fd.pth": "24a108a5",
    "efficientnet_b7_lukemelas-dcc49843.pth": "c5b4e57e",
    "resnext50_32x4d_gn-c7e8b754.pth": "",
    "resnext101_32x4d_gn-ac3bb84e.pth": "",
}


def _table(rows: str, base: str) -> dict[str, str]:
    return {name: f"{base}{file}.pth" for name, file in (row.split() for row in rows.strip().splitlines())}


def torchvision() -> dict[str, str]:
    """Name (lower case, without ``_weights``) → URL, for ``torchvision://`` and its old spelling ``modelzoo://``."""
    names = _table(_SINGLE, _PYTORCH)
    for rows, bare in ((_VERSIONED, True), (_VERSIONED_ONLY, False)):
        for name, *stems in (row.split() for row in rows.strip().splitlines()):
            urls = [f"{_PYTORCH}{stem}.pth" for stem in stems]
            names.update({f"{name}.imagenet1k_v{version}": url for version, url in enumerate(urls, start=1)})
            names.setdefault(f"{name}.default", urls[-1])
            if bare:
                names[name] = urls[0]
    return names


def open_mmlab() -> dict[str, str]:
    """Name → URL, for ``open-mmlab://`` and ``openmmlab://``."""
    return {**_table(_THIRD_PARTY, f"{_OPENMMLAB}pretrain/third_party/"), **_table(_OTHER, _OPENMMLAB)}


def mmcls() -> dict[str, str]:
    """Name → URL, for ``mmcls://``; these files hold a whole classifier, the backbone under ``backbone.``."""
    return _table(_MMCLS, f"{_OPENMMLAB}mmclassification/v0/")
