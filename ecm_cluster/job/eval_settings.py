"""What can be varied when a checkpoint is scored: valid values, grids of them, and what they change in a config.

Two kinds. *Detection settings* change the model's predictions, so each combination needs inference of its own.
*Scoring settings* change how predictions are scored: they reuse stored detections, and need no GPU.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base.errors import UserError, one_of
from ..base.yaml_file import read_yaml
from ..mmclasses import datasets
from ..mmconfig import shipped
from ..scoring.metrics import FIXED_DETS, MAX_DETS
from ..scoring.parts import COCO, LVIS
from ..scoring.scorers import SCORERS, default
from .option import BOOL, LARGEST, SCALE, Option, choice, number, whole

MOST_COMBINATIONS = 10_000  # far above any grid that is meant; each one is built here and checked against the config
BY_COCO = ("CocoDataset", "CityscapesDataset", "DeepFashionDataset", "Objects365V1Dataset", "Objects365V2Dataset")
OWN_RULE = ("VOCDataset", "WIDERFaceDataset", "XMLDataset", "OpenImagesDataset", "OpenImagesChallengeDataset")

# of the model, for Fixed AP: more, and the masks of an image of 1203 classes need more memory than most GPUs have
FIXED_PER_IMAGE = 1000

SETTINGS: dict[str, Option] = {
    "score_thr": Option(number(0, 1), "minimum score of a box before NMS"),
    "max_per_img": Option(whole(1, LARGEST), "maximum boxes that the model predicts per image"),
    "nms_iou": Option(number(0, 1, above=True), "overlap from which the weaker box of a class is suppressed"),
    "background": Option(choice("multiply", "ignore", "softmax"),
                         "class scores: sigmoid × (1 - background's), without that factor, or softmax"),
    "temperature": Option(number(0, LARGEST, above=True), "class logits are divided by it"),
    "margin": Option(number(0, LARGEST),
                     "this times the logarithm of a class's share of the training set is subtracted from its logit"),
    "scale": Option(SCALE, "test images are resized to fit into it"),
    "flip": Option(BOOL, "predictions on the image and on its mirror image, merged"),
    "max_dets": Option(whole(1, LARGEST), "maximum detections when scored: per image; by COCO's rule, per image and "
                       "class", scoring=True),
    "min_score": Option(number(0, 1), "minimum score of a detection when scored", scoring=True),
    "scorer": Option(choice(*SCORERS), "library that scores; lvis is the reference itself", scoring=True),
    "fixed": Option(BOOL, f"Fixed AP: of the {FIXED_DETS:,} best detections of each class over the whole set, with no "
                    f"maximum per image; unless given too, score_thr is 0 and max_per_img {FIXED_PER_IMAGE}",
                    scoring=True),
    "bootstrap": Option(whole(0, LARGEST), "replicates of a bootstrap over images for confidence intervals",
                        scoring=True),
}

USUAL = {"temperature": 1.0, "margin": 0.0, "max_dets": MAX_DETS, "min_score": 0.0, "fixed": False, "bootstrap": 0}


def check(name: str, value: Any, where: str = "") -> Any:
    """The value as it is kept.

    Raises:
        UserError: There is no such setting, or the value is invalid.
    """
    if name not in SETTINGS:
        raise one_of(f"{where}setting", name, list(SETTINGS))
    return SETTINGS[name].read(f"{where}{name}", value)


def grid(values: Mapping[str, Any], where: str = "") -> list[dict[str, Any]]:
    """Every combination of the values (one or a list of them by setting), each a dict; one empty dict for none."""
    axes = []
    for name, given in values.items():
        several = given if isinstance(given, list) and name != "scale" or _is_list_of_scales(name, given) else [given]
        if not several:
            raise UserError(f"{where}{name}: the list is empty; expected values, or leave it out")
        axes.append(list(dict.fromkeys((name, check(name, value, where)) for value in several)))
    if math.prod(map(len, axes)) > MOST_COMBINATIONS:
        raise UserError(f"{where}{', '.join(values)}: {math.prod(map(len, axes))} combinations; expected "
                        f"{MOST_COMBINATIONS} at most")
    return [_completed(dict(combination), where) for combination in itertools.product(*axes)]


def _completed(settings: dict[str, Any], where: str) -> dict[str, Any]:
    """With the detection settings that Fixed AP needs, unless they are given."""
    if not settings.get("fixed"):
        return settings
    if "max_dets" in settings:
        raise UserError(f"{where}max_dets: Fixed AP has no maximum of detections per image; leave max_dets or fixed "
                        "out")
    return {"score_thr": 0.0, "max_per_img": FIXED_PER_IMAGE, **settings}


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
    """Put detection settings into a resolved config, in place; those of the logits are applied by the model.

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
    """Whether every dataset of ``data.test`` is scored by LVIS's rule, judging by its name."""
    return all(leaf.type.startswith("LVIS") for leaf in datasets.leaves(cfg, "test"))


def check_scoring(cfg: Any, settings: Mapping[str, Any]) -> None:
    """Reject settings that the rule of the test datasets does not have, as far as it is known.

    Raises:
        UserError: It names the setting.
    """
    types = [leaf.type for leaf in datasets.leaves(cfg, "test")]
    known = by_lvis(cfg) or any(kind in (*BY_COCO, *OWN_RULE) for kind in types)
    needed = {"bootstrap": LVIS, "fixed": LVIS,
              "scorer": SCORERS[settings["scorer"]].rule if "scorer" in settings else ""}
    for name, rule in needed.items():
        if settings.get(name) and known and rule != _rule(cfg):
            raise UserError(f"{name}: only for datasets that are scored by {rule.upper()}'s rule, and data.test is a "
                            f"{types[0]}; leave it out")


def _rule(cfg: Any) -> str | None:
    types = [leaf.type for leaf in datasets.leaves(cfg, "test")]
    return LVIS if by_lvis(cfg) else COCO if any(kind in BY_COCO for kind in types) else None


def reduced(cfg: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those that change nothing: a config's own value, given again, is the same evaluation."""
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
    return default(_rule(cfg) or LVIS) if name == "scorer" else USUAL[name]


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
        raise UserError(f"background: {said} handles the background in its own way; leave it out")
    if asked == "multiply" and any(not k.startswith("EffectiveClassMargin") for k in kinds):
        raise UserError(f"background: multiply is for heads with a sigmoid for each class, and {said} has softmax "
                        "scores; expected ignore or softmax")
