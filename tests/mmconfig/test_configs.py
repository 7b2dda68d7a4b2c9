"""The configs that come with the program: they build in stock mmdet and say what was published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ecm_cluster.mmconfig import config

CONFIGS = Path(config.__file__).parents[2] / "configs"
EXPERIMENTS = sorted(p.relative_to(CONFIGS).as_posix() for p in CONFIGS.glob("*/*.py") if p.parent.name != "_base_")

# loss, margin exponent (None: not an ECM loss), outputs of the classifier beyond the classes
LOSSES = {
    "ecm/mask_rcnn_r50_1x.py": ("EffectiveClassMarginLoss", 0.25, 1),
    "ecm/mask_rcnn_r50_1x_lvis_v0.5.py": ("EffectiveClassMarginLoss", 0.25, 1),
    "ecm/mask_rcnn_r50_1x_3_images.py": ("EffectiveClassMarginLoss", 0.25, 1),
    "ecm/mask_rcnn_r50_2x.py": ("EffectiveClassMarginLoss", 0.25, 1),
    "ecm/mask_rcnn_r101_2x.py": ("EffectiveClassMarginLoss", 0.25, 1),
    "ecm/cascade_mask_rcnn_r101_2x.py": ("EffectiveClassMarginLoss", 0.25, 1),
    "ecm/mask_rcnn_r50_1x_nick.py": ("EffectiveClassMarginLossNick", 1.0, 1),
    "ecm/mask_rcnn_r50_1x_nick_author_bg.py": ("EffectiveClassMarginLossNickWAuthorBgHandling", 1.0, 1),
    "baselines/mask_rcnn_r50_1x_ce.py": ("CrossEntropyLoss", None, 1),
    "baselines/mask_rcnn_r50_1x_seesaw.py": ("SeesawLoss", None, 2),
}


@pytest.fixture(scope="module")
def lvis_roots(tmp_path_factory) -> dict[str, Path]:
    """Data roots with only the categories, by the data root in the config."""
    folder = tmp_path_factory.mktemp("lvis")
    roots = {}
    for name, classes in (("lvis_v1", 1203), ("lvis_v0.5", 1230)):
        categories = [{"id": k, "name": f"class {k}", "instance_count": 1 + k % 50} for k in range(1, classes + 1)]
        (folder / name / "annotations").mkdir(parents=True)
        text = json.dumps({"images": [], "annotations": [], "categories": categories})
        (folder / name / "annotations" / f"{name}_train.json").write_text(text)
        roots[f"data/{name}/"] = folder / name
    return roots


def as_submitted(name: str, root: Path, folder: Path, options: dict[str, Any]) -> Any:
    """The config as a run has it: read, set, moved to the data, written down, and loaded by mmcv."""
    from mmcv import Config

    cfg = config.rewrite_data_root(config.apply_options(config.read(CONFIGS / name), options), root)
    (folder / "config.py").write_text(config.dump(cfg))
    return Config.fromfile(str(folder / "config.py"))


def leaves(value: Any, key: str = "") -> dict[str, Any]:
    if isinstance(value, (dict, list)) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for name, item in items for k, v in leaves(item, f"{key}.{name}" if key else str(name)).items()}
    return {key: value}


def difference(ours: Any, theirs: Any) -> dict[str, Any]:
    """What ours sets differently, by its dotted key; None for what it leaves out."""
    mine, other = leaves(ours), leaves(theirs)
    return {key: mine.get(key) for key in {**other, **mine} if mine.get(key) != other.get(key)}


def test_every_config_is_an_experiment_with_a_known_loss():
    assert sorted(LOSSES) == EXPERIMENTS


@pytest.mark.parametrize("name", LOSSES)
def test_each_config_builds_in_mmdet_with_its_loss_and_classes(name, lvis_roots, tmp_path):
    from mmdet.models import build_detector

    root = lvis_roots[config.read(CONFIGS / name)["data_root"]]
    # nothing is fetched, and layers of a million weights need not be drawn for this
    small = {"model.backbone.init_cfg": None, "model.backbone.depth": 18, "model.neck.in_channels": [64, 128, 256, 512]}
    heads = range(3) if "cascade" in name else [None]
    narrow = [f"model.roi_head.bbox_head{'' if at is None else f'.{at}'}.fc_out_channels" for at in heads]
    cfg = as_submitted(name, root, tmp_path, {**small, **dict.fromkeys(narrow, 64)})
    model = build_detector(cfg.model)

    kind, exponent, more = LOSSES[name]
    classes = cfg.num_classes
    boxes = model.roi_head.bbox_head if "cascade" in name else [model.roi_head.bbox_head]
    assert len(boxes) == len(heads)
    for head in boxes:
        assert type(head.loss_cls).__name__ == kind
        assert getattr(head.loss_cls, "margin_exponent", None) == exponent
        rounded = name.startswith("ecm/") and "nick" not in name and "v0.5" not in name
        assert getattr(head.loss_cls, "class_weights", "exact") == ("published" if rounded else "exact")
        assert (head.num_classes, head.fc_cls.out_features) == (classes, classes + more)
        assert type(head.fc_cls).__name__ == "NormedLinear" and head.fc_cls.tempearture == 20
    masks = model.roi_head.mask_head
    for head in masks if "cascade" in name else [masks]:
        assert (type(head.conv_logits).__name__, head.conv_logits.out_channels) == ("NormedConv2d", classes)
        assert head.conv_logits.tempearture == 20
    assert type(model.rpn_head.assigner).__name__ == "MemorySafeMaxIoUAssigner"
    assert (model.roi_head.test_cfg.score_thr, model.roi_head.test_cfg.max_per_img) == (1e-4, 300)


# --- what was published ---------------------------------------------------------------------------------------

PUBLISHED = {
    # epochs, steps, depth, images a GPU
    "ecm/mask_rcnn_r50_1x.py": (12, [8, 11], 50, 2),
    "ecm/mask_rcnn_r50_1x_lvis_v0.5.py": (12, [8, 11], 50, 2),
    "ecm/mask_rcnn_r50_1x_3_images.py": (12, [8, 11], 50, 3),
    "ecm/mask_rcnn_r50_2x.py": (24, [20, 22], 50, 2),
    "ecm/mask_rcnn_r101_2x.py": (24, [20, 22], 101, 2),
    "ecm/cascade_mask_rcnn_r101_2x.py": (24, [20, 22], 101, 2),
    "ecm/mask_rcnn_r50_1x_nick.py": (12, [8, 11], 50, 3),
    "ecm/mask_rcnn_r50_1x_nick_author_bg.py": (12, [8, 11], 50, 3),
    "baselines/mask_rcnn_r50_1x_ce.py": (12, [8, 11], 50, 2),
    "baselines/mask_rcnn_r50_1x_seesaw.py": (12, [8, 11], 50, 2),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_config_has_the_published_schedule(name):
    cfg = config.read(CONFIGS / name)
    epochs, steps, depth, images = PUBLISHED[name]
    assert cfg["runner"] == {"type": "EpochBasedRunner", "max_epochs": epochs}
    assert cfg["optimizer"] == {"type": "SGD", "lr": 0.02, "momentum": 0.9, "weight_decay": 1e-4}
    assert cfg["optimizer_config"] == {"grad_clip": {"max_norm": 5, "norm_type": 2}}
    assert cfg["lr_config"] == {
        "policy": "step", "warmup": "linear", "warmup_iters": 10000, "warmup_ratio": 1e-4, "step": steps,
    }  # fmt: skip
    assert cfg["model"]["backbone"]["depth"] == depth
    assert cfg["model"]["backbone"]["init_cfg"]["checkpoint"] == f"torchvision://resnet{depth}"
    assert cfg["data"]["samples_per_gpu"] == images
    assert cfg["auto_scale_lr"] == {"enable": False, "base_batch_size": 8 * images}
    assert cfg["evaluation"] == {"interval": epochs, "metric": ["bbox", "segm"]}


NORMED_BOXES = {"cls_predictor_cfg.type": "NormedLinear", "cls_predictor_cfg.tempearture": 20}
ECM = {
    "num_classes": 1203, **NORMED_BOXES, "loss_cls.type": "EffectiveClassMarginLoss", "loss_cls.fg_bg_ratio": 6.3313,
    "loss_cls.use_sigmoid": None, "loss_cls.class_counts": "data/lvis_v1/annotations/lvis_v1_train.json",
    "loss_cls.class_weights": "published",
}  # fmt: skip
LVIS = {
    "roi_head.mask_head.num_classes": 1203,
    "roi_head.mask_head.predictor_cfg.type": "NormedConv2d",
    "roi_head.mask_head.predictor_cfg.tempearture": 20,
    "train_cfg.rpn.assigner.type": "MemorySafeMaxIoUAssigner",
    "test_cfg.rcnn.score_thr": 1e-4,
    "test_cfg.rcnn.max_per_img": 300,
}


def test_mask_rcnn_is_mmdets_except_loss_classifiers_and_lvis_settings():
    ours = config.read(CONFIGS / "ecm/mask_rcnn_r50_1x.py")["model"]
    theirs = config.read("mmdet::_base_/models/mask_rcnn_r50_fpn.py")["model"]
    boxes = {f"roi_head.bbox_head.{key}": value for key, value in ECM.items()}
    rcnn = {"train_cfg.rcnn.assigner.type": "MemorySafeMaxIoUAssigner"}
    assert difference(ours, theirs) == {**boxes, **LVIS, **rcnn}


def test_cascade_mask_rcnn_is_mmdets_except_depth_loss_classifiers_and_lvis_settings():
    ours = config.read(CONFIGS / "ecm/cascade_mask_rcnn_r101_2x.py")["model"]
    theirs = config.read("mmdet::_base_/models/cascade_mask_rcnn_r50_fpn.py")["model"]
    boxes = {f"roi_head.bbox_head.{at}.{key}": value for at in range(3) for key, value in ECM.items()}
    rcnn = {f"train_cfg.rcnn.{at}.assigner.type": "MemorySafeMaxIoUAssigner" for at in range(3)}
    depth = {"backbone.depth": 101, "backbone.init_cfg.checkpoint": "torchvision://resnet101"}
    assert difference(ours, theirs) == {**boxes, **LVIS, **rcnn, **depth}


@pytest.mark.parametrize(("name", "theirs"), [
    ("ecm/mask_rcnn_r50_1x.py", "mask_rcnn_r50_fpn_sample1e-3_mstrain_1x_lvis_v1.py"),
    ("ecm/mask_rcnn_r50_1x_lvis_v0.5.py", "mask_rcnn_r50_fpn_sample1e-3_mstrain_2x_lvis_v0.5.py"),
])  # fmt: skip
def test_data_and_augmentation_are_those_of_mmdets_lvis_configs(name, theirs):
    assert config.read(CONFIGS / name)["data"] == config.read(f"mmdet::lvis/{theirs}")["data"]


@pytest.mark.parametrize("name", ["mask_rcnn_r50_1x_ce.py", "mask_rcnn_r50_1x_seesaw.py"])
def test_a_baseline_differs_from_ecm_in_its_loss_only(name):
    ecm, baseline = config.read(CONFIGS / "ecm/mask_rcnn_r50_1x.py"), config.read(CONFIGS / "baselines" / name)
    assert ecm["model"]["roi_head"]["bbox_head"].pop("loss_cls") != baseline["model"]["roi_head"]["bbox_head"].pop(
        "loss_cls")  # fmt: skip
    assert ecm == baseline


# --- options and stand-alone use ------------------------------------------------------------------------------


def test_trackers_are_added_by_naming_them_beside_a_config_that_has_hooks_of_its_own(tmp_path):
    from mmcv import Config

    wanted = [str(CONFIGS / name) for name in ("ecm/mask_rcnn_r50_1x.py", "_base_/logging/tensorboard.py",
                                               "_base_/logging/wandb.py")]
    (tmp_path / "own.py").write_text(f"_base_ = {wanted}\ncustom_hooks = [dict(type='NumClassCheckHook')]\n")
    read = config.read(tmp_path / "own.py")
    assert read["tracker_wandb"] == {"project": "ecm-cluster", "mode": "offline"}
    assert read["tracker_tensorboard"] == {}
    assert Config.fromfile(str(tmp_path / "own.py"))._cfg_dict.to_dict() == read, "mmcv reads it, too"


def test_no_base_is_outside_of_configs():
    for path in sorted(CONFIGS.rglob("*.py")):
        assert all(CONFIGS in file.parents for file in config.bases(path))
        assert not {"mmdet::", "open-mmlab"} & set(path.read_text().split())


def test_what_mmdets_own_train_script_asks_for_is_in_every_config():
    asked = {"model", "data", "optimizer", "optimizer_config", "lr_config", "runner", "checkpoint_config"}
    asked |= {"log_config", "evaluation", "dist_params", "log_level", "workflow", "load_from", "resume_from"}
    for name in [*EXPERIMENTS, "demo.py"]:
        assert asked <= config.read(CONFIGS / name).keys()


# --- the demo -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Any:
    """The demo's config on a data set of twelve images."""
    from ecm_cluster.synthetic.dataset import Spec, write

    folder = tmp_path_factory.mktemp("demo")
    write(folder / "data", Spec(train_images=12, val_images=2, classes=24, min_images=1))
    return as_submitted("demo.py", folder / "data", folder, {})


def test_the_demo_is_the_published_set_up_made_small(demo):
    from mmdet.models import build_detector

    model = build_detector(demo.model)
    published = config.read(CONFIGS / "ecm/mask_rcnn_r50_1x.py")["model"]
    box, mask = model.roi_head.bbox_head, model.roi_head.mask_head
    assert demo.model.roi_head.bbox_head.loss_cls.type == published["roi_head"]["bbox_head"]["loss_cls"]["type"]
    assert (type(box.loss_cls).__name__, box.num_classes, mask.num_classes) == ("EffectiveClassMarginLoss", 24, 24)
    assert (type(box.fc_cls).__name__, type(mask.conv_logits).__name__) == ("NormedLinear", "NormedConv2d")
    assert 0.9e6 < sum(p.numel() for p in model.parameters()) < 1.1e6
    assert 2 * demo.data.samples_per_gpu == 8


@pytest.mark.slow
def test_the_demo_trains_a_step_and_detects_on_synthetic_lvis(demo):
    import torch
    from mmcv.parallel import scatter
    from mmdet.datasets import build_dataloader, build_dataset
    from mmdet.models import build_detector

    torch.manual_seed(0)
    train = build_dataset(demo.data.train)
    assert len(train) >= 12 and len(train.CLASSES) == 24
    model = build_detector(demo.model)
    model.init_weights()
    loader = build_dataloader(train, demo.data.samples_per_gpu, 0, dist=False, seed=0)
    (batch,) = scatter(next(iter(loader)), [-1])
    losses = model.train_step(batch, None)
    losses["loss"].backward()
    assert {"loss_rpn_cls", "loss_cls", "loss_bbox", "loss_mask"} <= losses["log_vars"].keys()
    # every part learns; a loss that a config switches off would leave parameters without gradient
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []

    item = build_dataset(demo.data.test, {"test_mode": True})[0]
    with torch.no_grad():
        ((boxes, masks),) = model.eval()(
            [item["img"][0][None]], [[item["img_metas"][0].data]], return_loss=False, rescale=True
        )
    assert len(boxes) == len(masks) == 24
    assert sum(map(len, boxes)) <= 50
