"""Our configs against the set-ups of the authors and of the re-implementation, leaf by leaf and figure by figure.

``golden/published_configs.json`` holds what their trees resolve to: dotted key → value, for each set-up as the
difference from the authors' 1x one. The learning rates, and the loss of the first step, were recorded from their code.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ecm_cluster.mmconfig import config

CONFIGS = Path(config.__file__).parents[2] / "configs/ecm"
FACTS = json.loads((Path(__file__).parents[1] / "golden/published_configs.json").read_text())
OURS = {
    "authors_r50_ecm_1x": "mask_rcnn_r50_1x.py", "authors_r50_ecm_2x": "mask_rcnn_r50_2x.py",
    "authors_r101_ecm_2x": "mask_rcnn_r101_2x.py", "authors_c101_ecm_2x": "cascade_mask_rcnn_r101_2x.py",
    "nick_r50_ecm_1x": "mask_rcnn_r50_1x_3_images.py", "nick_r50_ecm_1x_nick": "mask_rcnn_r50_1x_nick.py",
    "nick_r50_ecm_1x_nick_author_bg_handling": "mask_rcnn_r50_1x_nick_author_bg.py"}
ABSENT = "absent"
COUNTS = "data/lvis_v1/annotations/lvis_v1_train.json"
LOSS = r"model\.roi_head\.bbox_head\.(\d\.)?loss_cls\."
# key, what ours has, why that trains the same
EVERYWHERE = [
    (r"num_classes|class_counts", None, "names for what the config says in several places"),
    (r"custom_imports\..*", None, "registers our loss and assigner, which their forks hold"),
    (r"custom_hooks\.0\.type", ABSENT, "the trainer registers NumClassCheckHook itself"),
    (LOSS + "class_counts", COUNTS, "their code reads the same counts from a file of its own"),
    (LOSS + "(num_classes|use_sigmoid)", ABSENT, "checked by the head; without a meaning in either code"),
    (r"model\.train_cfg\.(rpn|rcnn)(\.\d)?\.assigner\.type", "MemorySafeMaxIoUAssigner",
     "MaxIoUAssigner in parts: the same answers in less memory"),
]
AUTHORS = [(LOSS + "class_weights", "published", "their float32 weights, by name")]
FORK = [
    (r"auto_scale_lr\.base_batch_size", 24, "their runs have 24 images at this learning rate; it is off in both"),
    (r"log_config\.hooks\..*", None, "Weights & Biases is added by _base_/logging/wandb.py"),
]
OWN_LOSS = [
    (LOSS + "stats_file", ABSENT, "the same counts, from the annotation file"),
    (LOSS + "margin_exponent", 1.0, "what their code computes where it says 1/4"),
]
DIFFERENCES = {
    **{name: EVERYWHERE + AUTHORS for name in OURS if name.startswith("authors")},
    "nick_r50_ecm_1x": EVERYWHERE + AUTHORS + FORK, "nick_r50_ecm_1x_nick": EVERYWHERE + FORK + OWN_LOSS,
    "nick_r50_ecm_1x_nick_author_bg_handling":
        [*EVERYWHERE, *FORK, *OWN_LOSS, (LOSS + "fg_bg_ratio", 6.3313, "their loss's default, written out")]}


def leaves(value: Any, key: str = "") -> dict[str, Any]:
    if isinstance(value, (dict, list, tuple)) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for name, item in items for k, v in leaves(item, f"{key}.{name}" if key else str(name)).items()}
    return {key: list(value) if isinstance(value, tuple) else value}


def published(name: str) -> dict[str, Any]:
    entry = FACTS["published"][name]
    return {**{k: v for k, v in FACTS["base"].items() if k not in entry["without"]}, **entry["with"]}


@pytest.mark.parametrize("name", OURS)
def test_every_leaf_is_the_published_one_or_differs_for_a_listed_reason(name):
    ours, theirs = leaves(config.read(CONFIGS / OURS[name])), published(name)
    differing = {key: ours.get(key, ABSENT) for key in {**theirs, **ours}
                 if ours.get(key, ABSENT) != theirs.get(key, ABSENT)}
    listed = {key: [(pattern, value) for pattern, value, _ in DIFFERENCES[name] if re.fullmatch(pattern, key)]
              for key in differing}
    unlisted = {key: (theirs.get(key, ABSENT), differing[key]) for key, found in listed.items()
                if len(found) != 1 or found[0][1] not in (None, differing[key])}
    assert not unlisted, "key: (theirs, ours)"
    used = {pattern for found in listed.values() for pattern, _ in found}
    assert [pattern for pattern, _, _ in DIFFERENCES[name] if pattern not in used] == [], "no longer different"


def test_every_published_set_up_has_a_config():
    assert set(OURS) == set(FACTS["published"]) and len(leaves(FACTS["base"])) == 338


def test_the_learning_rate_takes_the_recorded_course():
    from mmcv.runner.hooks import HOOKS

    cfg = config.read(CONFIGS / "mask_rcnn_r50_1x.py")
    settings = dict(cfg["lr_config"])
    hook = HOOKS.get(settings.pop("policy").capitalize() + "LrUpdaterHook")(**settings)
    group = {"lr": cfg["optimizer"]["lr"]}
    runner: Any = SimpleNamespace(optimizer=SimpleNamespace(param_groups=[group]), epoch=0, iter=0)
    hook.before_run(runner)
    recorded = {0: 1.9999999999997797e-06, 1: 3.999799999998554e-06, 9999: 0.0199980002, 10000: 0.02, 10399: 0.02,
                10400: 0.002, 14299: 0.002, 14300: 2.0000000000000004e-04}
    for iteration, rate in recorded.items():
        runner.epoch, runner.iter = iteration // 1300, iteration
        if iteration % 1300 == 0 or iteration in (1, 9999, 10399, 14299):
            hook.before_train_epoch(runner)
        hook.before_train_iter(runner)
        assert group["lr"] == pytest.approx(rate, rel=1e-9), iteration


def test_images_of_rare_classes_are_repeated_by_the_published_rule():
    from mmdet.datasets import ClassBalancedDataset

    threshold = config.read(CONFIGS / "mask_rcnn_r50_1x.py")["data"]["train"]["oversample_thr"]

    class Images:
        """10,000 images, of which so many show class k; the first one shows all."""

        CLASSES, shown = ("a", "b", "c", "d", "e"), (1, 3, 5, 10, 5000)

        def __len__(self) -> int:
            return 10_000

        def get_cat_ids(self, at: int) -> list[int]:
            return [k for k, count in enumerate(self.shown) if at < count]

    data: Any = Images()
    data.flag = [0] * 10_000
    made = ClassBalancedDataset(data, threshold)
    factors = made._get_repeat_factors(data, threshold)
    assert [factors[at] for at in (0, 1, 3, 5, 20)] == pytest.approx([10**0.5, (10 / 3)**0.5, 2**0.5, 1, 1])
    assert len(made) == 10_000 + 3 + 2 + 2 * 1, "a factor is rounded up for each image"


@pytest.mark.parametrize(("count", "weight"), [
    (1, 1.11005), (5, 1.11005), (6, 0.92504), (8, 0.97129), (10, 0.99904), (100, 0.99903), (1000, 1.0)])
def test_published_class_weights_are_those_of_float32(count, weight):
    torch = pytest.importorskip("torch")
    from mmdet_ext.loss.ecm_core import margins, published_weights

    # LVIS v1 has 1,270,141 instances, and 6.3313 times as many boxes of background
    positives = torch.tensor([count, 1_270_141 - count, 1_270_141 * 6.3313], dtype=torch.float64)
    found, exact = published_weights(positives)[0].item(), margins(positives, 0.25)[1][0].item()
    assert found == pytest.approx(weight, abs=1e-5) and exact == pytest.approx(1, abs=1e-4)
