"""What can be varied when a checkpoint is scored: legal values, grids of them, and what they change in a config.

Two kinds. *Detection settings* change what the model answers, so each combination needs inference of its own.
*Scoring settings* change what is made of the answers: they reuse stored detections, and need no GPU.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import UserError, one_of, shown
from ..base.yaml_file import read_yaml
from ..mmclasses import datasets
from ..mmconfig import shipped

MOST = 1_000_000_000  # of any number
MOST_COMBINATIONS = 10_000
BACKGROUNDS = ("multiply", "ignore", "softmax")
SCORERS = ("hotcoco", "lvis")
OTHER_RULES = ("CocoDataset", "CityscapesDataset", "DeepFashionDataset", "Objects365V1Dataset", "Objects365V2Dataset",
               "VOCDataset", "WIDERFaceDataset", "XMLDataset", "OpenImagesDataset", "OpenImagesChallengeDataset")


@dataclass(frozen=True)
class Setting:
    """One thing to vary.

    Attributes:
        legal: The legal values, in words.
        read: Turns what was given into the value that is kept; raises ValueError where it is not legal.
        scoring: Whether stored detections can be reused.
    """

    legal: str
    read: Callable[[Any], Any]
    help: str
    scoring: bool = False


def _number(least: float, most: float = float("inf"), open_end: bool = False) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError
        if not (least < value if open_end else least <= value) or not value <= min(most, MOST):
            raise ValueError
        return float(value)

    return read


def _whole(least: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST:
            raise ValueError
        return value

    return read


def _choice(*legal: Any) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not any(value is choice or (value == choice and isinstance(value, str)) for choice in legal):
            raise ValueError
        return value

    return read


def _scale(value: Any) -> str:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        value = f"{value[0]}x{value[1]}"
    if not isinstance(value, str) or not re.fullmatch(r"[1-9][0-9]{0,5}x[1-9][0-9]{0,5}", value):
        raise ValueError
    return value


SETTINGS: dict[str, Setting] = {
    "score_thr": Setting("a number from 0 to 1", _number(0, 1), "least score of a box before NMS"),
    "max_per_img": Setting("a whole number, 1 or more", _whole(1), "boxes that the model gives for an image"),
    "nms_iou": Setting("a number above 0, up to 1", _number(0, 1, True),
                       "overlap from which the weaker box of a class goes"),
    "background": Setting(", ".join(BACKGROUNDS), _choice(*BACKGROUNDS),
                          "scores of classes: sigmoid × (1 - background's), without that factor, or softmax"),
    "temperature": Setting("a number above 0", _number(0, open_end=True), "class logits are divided by it"),
    "margin": Setting("a number, 0 or more", _number(0),
                      "this times the logarithm of a class's share of the training set is taken off its logit"),
    "scale": Setting("WIDTHxHEIGHT, e.g. 1333x800", _scale, "test images are resized to fit into it"),
    "flip": Setting("true or false", _choice(True, False), "answers on the image and on its mirror image, merged"),
    "max_dets": Setting("a whole number, 1 or more", _whole(1), "boxes that count when scored: of an image; by COCO's "
                        "rule, of a class in it", scoring=True),
    "min_score": Setting("a number from 0 to 1", _number(0, 1), "least score that counts when scored", scoring=True),
    "scorer": Setting(", ".join(SCORERS), _choice(*SCORERS), "library that scores; lvis is the reference itself",
                      scoring=True),
    "bootstrap": Setting("a whole number, 0 or more", _whole(0),
                         "replicates of a bootstrap over images for confidence intervals", scoring=True),
}

USUAL = {"temperature": 1.0, "margin": 0.0, "max_dets": 300, "min_score": 0.0, "scorer": SCORERS[0], "bootstrap": 0}


def check(name: str, value: Any, where: str = "") -> Any:
    """The value as it is kept.

    Raises:
        UserError: There is no such setting, or the value is not legal for it.
    """
    if name not in SETTINGS:
        raise one_of(f"{where}setting", name, list(SETTINGS))
    try:
        return SETTINGS[name].read(value)
    except ValueError:
        raise UserError(f"{where}{name}: {shown(value)} is not legal; give {SETTINGS[name].legal}") from None


def grid(values: Mapping[str, Any], where: str = "") -> list[dict[str, Any]]:
    """Every combination of the values, each a dict of settings; one empty dict for none.

    Args:
        values: A value or a list of values by setting.
    """
    axes = []
    for name, given in values.items():
        several = given if isinstance(given, list) and name != "scale" or _is_list_of_scales(name, given) else [given]
        if not several:
            raise UserError(f"{where}{name}: the list is empty; give {SETTINGS[name].legal}, or leave it out"
                            if name in SETTINGS else f"{where}{name}: the list is empty")
        axes.append(list(dict.fromkeys((name, check(name, value, where)) for value in several)))
    if math.prod(map(len, axes)) > MOST_COMBINATIONS:
        raise UserError(f"{where}{', '.join(values)}: {math.prod(map(len, axes))} combinations; expected "
                        f"{MOST_COMBINATIONS} at most")
    return [dict(combination) for combination in itertools.product(*axes)]


def _is_list_of_scales(name: str, given: Any) -> bool:
    return name == "scale" and isinstance(given, list) and not all(isinstance(g, int) for g in given)


def read_sweep(path: Path) -> dict[str, Any]:
    """The values to try of each setting, from a sweep file (YAML): a path, or the name of one in ``jobs/``."""
    return read_yaml(shipped.find_in_jobs(str(path)) or path)


def split(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(detection settings, scoring settings)."""
    scoring = {k: v for k, v in settings.items() if SETTINGS[k].scoring}
    return {k: v for k, v in settings.items() if k not in scoring}, scoring


def label(settings: Mapping[str, Any]) -> str:
    """In a few words: ``nms_iou 0.5, flip true``; ``as configured`` for none."""
    def shown(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:g}"
        return str(value).lower() if isinstance(value, bool) else str(value)

    return ", ".join(f"{k} {shown(v)}" for k, v in settings.items()) or "as configured"


# ---------------------------------------------------------------------------------------------- in a config


def apply(cfg: Any, settings: Mapping[str, Any]) -> None:
    """Put detection settings into a resolved config, in place; those of the logits are left to the model.

    Args:
        cfg: A dict or an ``mmcv.Config``.

    Raises:
        UserError: The config has nothing that a setting could change.
    """
    for name in ("score_thr", "max_per_img", "nms_iou"):
        if name in settings:
            block = _last_stage(cfg, name)
            if name == "nms_iou":
                block["nms"]["iou_threshold"] = settings[name]
            else:
                block[name] = settings[name]
    if "scale" in settings or "flip" in settings:
        steps = _test_time_steps(cfg)
        if not steps:
            raise UserError("scale, flip: data.test.pipeline has no MultiScaleFlipAug whose img_scale and flip they "
                            "could set; leave them out, or give the pipeline one")
        for step in steps:
            if "scale" in settings:
                width, height = map(int, settings["scale"].split("x"))
                step["img_scale"] = (width, height)
                step.pop("scale_factor", None)
            if "flip" in settings:
                step["flip"] = settings["flip"]
    if {"background", "temperature", "margin"} & set(settings):
        _check_head(cfg, settings)


def by_lvis(cfg: Any) -> bool:
    """Whether every dataset of ``data.test`` is scored by LVIS's rule, as far as its name tells."""
    return all(leaf.type.startswith("LVIS") for leaf in datasets.leaves(cfg, "test"))


def check_scoring(cfg: Any, settings: Mapping[str, Any]) -> None:
    """Refuse settings that the rule of the test datasets does not have, as far as it is known.

    Raises:
        UserError: It names the setting.
    """
    types = [leaf.type for leaf in datasets.leaves(cfg, "test")]
    for name in ("bootstrap", "scorer"):
        if settings.get(name) and any(kind in OTHER_RULES for kind in types):
            raise UserError(f"{name}: only for datasets that are scored by LVIS's rule, and data.test is a "
                            f"{types[0]}; leave it out")


def reduced(cfg: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those that change nothing: a config's own value, given again, is no other evaluation."""
    return {name: value for name, value in settings.items() if _current(cfg, name) != value}


def _current(cfg: Any, name: str) -> Any:
    if name == "nms_iou":
        return _last_stage(cfg, name)["nms"].get("iou_threshold")
    if name in ("score_thr", "max_per_img"):
        return _last_stage(cfg, name)[name]
    if name in ("scale", "flip"):
        current = {bool(step.get("flip")) if name == "flip" else "x".join(map(str, step.get("img_scale") or ()))
                   for step in _test_time_steps(cfg)}
        return current.pop() if len(current) == 1 else None
    if name == "background":
        kinds = {(head.get("loss_cls") or {}).get("type") for head in box_heads(cfg)}
        multiplying = {"EffectiveClassMarginLoss", "EffectiveClassMarginLossNickWAuthorBgHandling"}
        return "multiply" if kinds <= multiplying else "softmax"
    if name == "max_dets" and not by_lvis(cfg):
        return None
    return USUAL[name]


def _last_stage(cfg: Any, name: str) -> Any:
    """The block of the model's test_cfg that decides which boxes stay."""
    test = (cfg["model"].get("test_cfg") or cfg.get("test_cfg")) or {}
    block = test.get("rcnn", test)
    if name == "nms_iou" and "nms" not in block or name != "nms_iou" and name not in block:
        raise UserError(f"{name}: model.test_cfg has no {'nms' if name == 'nms_iou' else name} that it could set; "
                        "leave it out")
    return block


def _test_time_steps(cfg: Any) -> list[Any]:
    """Every step of test-time augmentation; several datasets have one each."""
    return [step for _, step in datasets.pipelines(cfg, "test") if step.get("type") == "MultiScaleFlipAug"]


def box_heads(cfg: Any) -> list[Any]:
    """The configs of the box heads: one, or one for each stage of a cascade; empty where there is no second stage."""
    head = (cfg["model"].get("roi_head") or {}).get("bbox_head") or []
    return list(head) if isinstance(head, (list, tuple)) else [head]


def _check_head(cfg: Any, settings: Mapping[str, Any]) -> None:
    heads = box_heads(cfg)
    if not heads:
        raise UserError("background, temperature, margin: the model has no roi_head.bbox_head whose logits they could "
                        "change; leave them out")
    kinds = {(head.get("loss_cls") or {}).get("type", "CrossEntropyLoss") for head in heads}
    asked, said = settings.get("background"), ", ".join(sorted(kinds))
    if asked is not None and not all(k.startswith("EffectiveClassMargin") or k == "CrossEntropyLoss" for k in kinds):
        raise UserError(f"background: {said} has a way of its own with the background; leave it out")
    if asked == "multiply" and any(not k.startswith("EffectiveClassMargin") for k in kinds):
        raise UserError(f"background: multiply is for heads with a sigmoid for each class, and {said} has softmax "
                        "scores; give ignore or softmax")
