"""Real detectors whose hooks change dataset or model, stopped at and behind the change, end in the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from comparing import bits, log_lines, state_in
from processes.ranks import detector, notes, state_file, train
from small import CLASSES, first_images

from ecm_cluster.mmconfig import config

pytestmark = pytest.mark.slow

SIZE = (64, 64)
SHIPPED = "mmdet::yolox/yolox_tiny_8x8_300e_coco.py"


@pytest.fixture(scope="module")
def few(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first images of the small data: an epoch of a few iterations."""
    return first_images(small_data, tmp_path_factory.mktemp("few"), 8)


def sized(value: Any) -> Any:
    """The shipped config's pipelines at the small size."""
    if isinstance(value, dict):
        new = {key: sized(item) for key, item in value.items()}
        return {**new, **{key: size for key, size in (("img_scale", SIZE), ("border", (-32, -32))) if key in new}}
    return [sized(item) for item in value] if isinstance(value, list) else value


def yolox(data: Path, **options: Any) -> dict[str, Any]:
    """mmdet's own YOLOX on the small data: the switch comes at the second of four epochs."""
    cfg, small = config.read(SHIPPED), detector(data)
    dataset = {**small["data"]["train"]["dataset"], "filter_empty_gt": False, "pipeline": [
        {"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_bbox": True}]}
    cfg = config.apply_options(cfg, {
        "model.backbone.widen_factor": 0.125, "model.backbone.deepen_factor": 0.33, "model.input_size": SIZE,
        "model.neck.in_channels": [32, 64, 128], "model.neck.out_channels": 32, "model.bbox_head.in_channels": 32,
        "model.bbox_head.feat_channels": 32, "model.bbox_head.num_classes": CLASSES,
        "model.random_size_range": (2, 4), "model.random_size_interval": 2,
        "runner.max_epochs": 4, "log_config.interval": 2, "lr_config.num_last_epochs": 2, "lr_config.warmup_iters": 1,
        "data.samples_per_gpu": 1, "data.workers_per_gpu": 0, "data.persistent_workers": False,
        "custom_hooks.0.num_last_epochs": 2, "custom_hooks.1.num_last_epochs": 2, "custom_hooks.1.interval": 2,
        **options})
    cfg["data"]["train"] = {**sized(cfg["data"]["train"]), "dataset": dataset}
    return cfg


CASES: dict[str, tuple[int, list[int], dict[str, Any]]] = {
    # 8 iterations an epoch for one rank: in the switch epoch, at the end of it, in one behind it
    "1 rank": (1, [9, 16, 21], {}),
    "2 ranks, workers that stay": (2, [5, 11], {"data.workers_per_gpu": 1, "data.persistent_workers": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_yolox_stopped_in_and_behind_its_switch_epoch_ends_in_the_same_bits(few, tmp_path, case):
    ranks, stops, options = CASES[case]
    cfg = yolox(few, **options)
    through = train(cfg, tmp_path / "through", [(ranks, None)], ranks)
    broken = train(cfg, tmp_path / "broken", [(ranks, at) for at in stops] + [(ranks, None)], ranks)
    losses = notes(through, "losses")
    switched = [iteration for iteration, _, logged in losses if "loss_l1" in logged]
    per_epoch = len(losses) // 4
    assert switched == list(range(per_epoch + 1, 4 * per_epoch + 1)), "the L1 loss comes with the second epoch"
    assert notes(broken, "losses") == losses
    ends = [state_in(state_file(run, run.newest_attempt())) for run in (through, broken)]
    done = [end.pop("done_by_hooks") for end in ends]  # each since its own attempt began
    assert bits(ends[0]) == bits(ends[1])
    assert log_lines(broken) == log_lines(through)
    values = {".".join(str(step[1]) for step in path): value for _, path, value in done[0]["values"]}
    assert values["_skip_type_keys"] and values["bbox_head.use_l1"] is True
