"""A shipped config made so small that a CPU trains it in seconds: the same parts in the same order, smaller numbers.

What is changed, and nothing else: pictures (the longer side to 128 pixels, and what is given in pixels by the same
factor), images in a batch, boxes that are sampled and kept, the score from which a box counts at test time (a model
that has hardly learned gives no high ones), the schedule (two epochs of two iterations, or four iterations where the
config counts those), logging at each iteration; weights that would be fetched are taken out, and deep backbones are
made shallow.
"""

from __future__ import annotations

import copy
from typing import Any

from ecm_cluster.mmconfig import config
from ecm_cluster.mmconfig.config import nested
from ecm_cluster.mmconfig.edit import map_strings

SIDE = 128  # longer side of a picture, pixels
EPOCHS, ITERATIONS = 2, 4
BATCH = 2
IN_PIXELS = ("img_scale", "crop_size", "size", "border", "input_size")
# sizes that a detector is built for
OWN_SIDE = {"ssd512": 512, "ssd": 300, "cornernet": 255, "centripetalnet": 255, "ddod": 640, "dconv": 256,
            "mdconv": 256, "detectors": 256, "dcn": 256, "deformable_detr_twostage": 1280, "sac": 256}
SAMPLED = {"num": 16, "nms_pre": 200, "nms_post": 50, "max_num": 50, "max_per_img": 30}
SCORES = ("score_thr", "conf_thr", "filter_thr")
LOW = 1e-4
# whose activations overflow from random weights while their batch normalisation is frozen, as the configs have it
TRAIN_NORM = ("detectors", "hrnet", "res2net")


def shrink(cfg: dict[str, Any], family: str, name: str, root: str) -> tuple[dict[str, Any], list[str]]:
    """A copy of a resolved config, small, reading from ``root`` what it reads from ``data/``.

    Returns:
        The config, and what was changed besides what is changed in all of them.
    """
    cfg = map_strings(copy.deepcopy(cfg), lambda text: f"{root}/{text[5:]}" if text.startswith("data/") else text)
    said: list[str] = []
    _drop_weights(cfg)
    side = next((side for kind, side in OWN_SIDE.items() if name.startswith(kind) or f"_{kind}" in name), SIDE)
    if side != SIDE:
        said.append(f"images of {side} pixels, which its layers require")
    _shrink_pictures(cfg, side)
    _shrink_samples(cfg)
    _shrink_schedule(cfg)
    _shrink_backbone(cfg, said)
    if cfg.pop("fp16", None):
        said.append("without fp16, whose casts need a GPU")
    for hook in cfg.get("custom_hooks") or []:
        if hook.get("rfstructure_file"):
            hook["rfstructure_file"] = f"{root}/structure.json"
            said.append("a structure file of this test, since mmdet's is not part of its package")
    teacher = cfg["model"].get("teacher_config")
    if isinstance(teacher, str):  # a path from a checkout of mmdet
        cfg["model"]["teacher_config"] = str(config.find(f"mmdet::{teacher.partition('/')[2]}"))
    if cfg["model"]["backbone"].get("type") == "TridentResNet":  # whose own layers only pretrained weights fill
        cfg["model"]["backbone"]["init_cfg"] = [
            {"type": "Kaiming", "layer": "Conv2d"}, {"type": "Constant", "val": 1, "layer": "_BatchNorm"},
            {"type": "Constant", "val": 0, "layer": "TridentConv"}]
        said.append("zeros in its TridentConv, which mmdet leaves as the memory was")
    if family in TRAIN_NORM:
        _train_norm(cfg, said)
    return cfg, said


def _drop_weights(cfg: dict[str, Any]) -> None:
    cfg["load_from"] = None
    for block in nested(cfg):
        if isinstance(block.get("init_cfg"), dict) and "checkpoint" in block["init_cfg"]:
            del block["init_cfg"]
        for key in ("pretrained", "teacher_ckpt"):
            if isinstance(block.get(key), str):
                block[key] = None
            elif key == "pretrained" and block.get(key) is True:
                block[key] = False  # timm's backbones


def _shrink_pictures(cfg: dict[str, Any], side: int) -> None:
    blocks = [block for block in nested(cfg) if set(IN_PIXELS) & set(block)]
    largest = max((edge for block in blocks for key in IN_PIXELS for edge in _edges(block.get(key))), default=side)
    factor = side / largest
    for block in blocks:
        for key in set(IN_PIXELS) & set(block):
            block[key] = _scaled(block[key], factor, exact=block.get("type") in ("RandomCenterCropPad",))
    model = cfg["model"]
    if "random_size_range" in model:  # YOLOX, in units of 32 pixels
        model["random_size_range"] = (max(1, side // 32 - 1), side // 32 + 1)
        model["random_size_interval"] = 2


def _edges(value: Any) -> list[float]:
    if isinstance(value, bool) or value is None or isinstance(value, (str, dict)):
        return []
    if isinstance(value, (list, tuple)):
        return [edge for inner in value for edge in _edges(inner)]
    return [abs(value)]


def _scaled(value: Any, factor: float, exact: bool) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_scaled(inner, factor, exact) for inner in value)
    if isinstance(value, float) and 0 < value <= 1 or value is None or isinstance(value, (str, dict)):
        return value  # a share of the picture
    if not value or exact:
        return value and max(32, round(value * factor))
    step = 32 if value % 32 == 0 else 1  # where layers count on multiples of 32, they still are
    return int(value / abs(value) * max(32, step * round(abs(value) * factor / step)))


def _shrink_samples(cfg: dict[str, Any]) -> None:
    data = cfg["data"]
    data["samples_per_gpu"] = min(BATCH, data["samples_per_gpu"])
    data["workers_per_gpu"] = min(1, data.get("workers_per_gpu", 1))
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        if "samples_per_gpu" in data.get(loader, {}):
            data[loader]["samples_per_gpu"] = min(BATCH, data[loader]["samples_per_gpu"])
    for block in nested(data):
        if block.get("type") == "RepeatDataset":
            block["times"] = 1
        if block.get("num_max_proposals"):
            block["num_max_proposals"] = min(100, block["num_max_proposals"])
    for block in nested([cfg["model"], cfg.get("train_cfg"), cfg.get("test_cfg")]):
        for key, most in SAMPLED.items():
            if isinstance(block.get(key), int):
                block[key] = min(most, block[key])
        for key in SCORES:
            if isinstance(block.get(key), float):
                block[key] = min(LOW, block[key])
        if "filter_thr" in block:  # SOLO, whose scores are products, and whose masks would not reach a half anywhere
            block.update(score_thr=LOW * LOW, filter_thr=LOW * LOW, mask_thr=LOW)


def _shrink_schedule(cfg: dict[str, Any]) -> None:
    runner = cfg["runner"]
    cfg.pop("total_epochs", None)  # an older name beside it
    by_epoch = runner["type"] == "EpochBasedRunner"
    runner.update({"max_epochs": EPOCHS} if by_epoch else {"max_iters": ITERATIONS})
    rates = cfg["lr_config"]
    if rates.get("step") is not None:
        rates["step"] = [1] if by_epoch else [ITERATIONS - 2]
    cfg.setdefault("log_config", {})["interval"] = 1
    for hook in cfg.get("custom_hooks") or []:
        if "num_last_epochs" in hook:
            hook["num_last_epochs"] = 1
        if hook.get("type") == "CheckInvalidLossHook":
            hook["interval"] = 2
    for block in (rates, cfg.get("custom_hooks") or []):
        for inner in nested(block):
            if "num_last_epochs" in inner:
                inner["num_last_epochs"] = 1
            if isinstance(inner.get("search"), dict):
                inner["search"].update(step=0, search_interval=2, max_step=3)


def _shrink_backbone(cfg: dict[str, Any], said: list[str]) -> None:
    for block in nested(cfg["model"]):
        kind = str(block.get("type"))
        if block.get("depth") == 101 and kind.startswith("Res"):
            block["depth"] = 50
            said.append(f"{kind}-101 with 50 layers")
        if kind == "HourglassNet":
            block.update(stage_channels=[64, 64, 96, 96, 96, 128], feat_channel=64)
            said.append("an hourglass of a quarter of the channels")
    if any("hourglass" in text for text in said):
        for head in nested(cfg["model"].get("bbox_head")):
            if "in_channels" in head:
                head["in_channels"] = 64


def _train_norm(cfg: dict[str, Any], said: list[str]) -> None:
    for block in nested(cfg["model"]):
        if block.get("type") == "HRNet":
            block["norm_eval"] = False  # True where nothing is said
        elif block.get("norm_eval"):
            block.update(norm_eval=False, frozen_stages=-1)
            block["norm_cfg"] = {**block["norm_cfg"], "requires_grad": True}
    said.append("batch normalisation learns, as activations overflow from random weights while it is frozen")
