"""On GPUs: the launcher's worker, mmcv's and mmdet's hooks, under a process group that serves CUDA tensors alone.

The GPUs are emulated (:mod:`emulated_gpu` says what that cannot show); the ranks are processes, and gloo carries what
NCCL would. Any collective of a CPU tensor on the default group, any CPU tensor among CUDA tensors, and numpy of a CUDA
tensor end a rank, and with it the test.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import emulated_gpu
import pytest
from comparing import bits, log_lines, state_in
from emulated_gpu.ranks import Server, begin, make, said
from processes.ranks import detector
from small import CLASSES, first_images

from ecm_cluster.chain import evaluations
from ecm_cluster.rundir import checkpoints
from ecm_cluster.rundir.run import Run
from ecm_cluster.scoring.detection_files import read_shards

MISSING = emulated_gpu.missing()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(MISSING is not None, reason=f"no emulated GPUs: {MISSING}")]


@pytest.fixture(scope="module")
def gpus() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def few(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first images of the small data: an epoch of a few iterations."""
    return first_images(small_data, tmp_path_factory.mktemp("few"), 4)


def hook(kind: str, **options: Any) -> dict[str, Any]:
    return {"type": kind, **options}


def config(data: Path, hooks: list[dict[str, Any]], loss: str = "ecm", max_iters: int | None = None,
           norm: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """A detector on ``data`` whose log line comes after each iteration, by epochs unless ``max_iters`` is given."""
    cfg = detector(data, loss, **{"log_config.interval": 1, **options})
    cfg["model"]["backbone"]["norm_cfg"] = norm or {"type": "BN"}
    cfg["custom_hooks"] = [hook("Signalled", priority="VERY_HIGH"), *hooks]
    if max_iters is not None:
        cfg["runner"] = {"type": "IterBasedRunner", "max_iters": max_iters}
    return cfg


def end(run: Run) -> dict[str, Any]:
    """The last state of a run, without what the clock and the attempts decide."""
    state = state_in(checkpoints.accepted(run)[-1].path(run))
    for part in state["meta"]["log_buffer"].values():
        part.pop("memory", None)
    return state


def why(run: Run, attempt: int = 1) -> list[str]:
    """What the ranks gave as the reason of their end, causes before consequences."""
    ends = [e for e in run.events() if e.kind == "end" and e.attempt == attempt]
    return [e["detail"] for e in sorted(ends, key=lambda e: bool(e.get("follows")))]


SYNC_BN = {"type": "SyncBN"}
CASES: dict[str, tuple[int, int, int, dict[str, Any]]] = {
    "by epochs, ECM, moving averages, statistics in step": (2, 2, 3, {
        "model__type": "EpochAware", "data__workers_per_gpu": 1,
        "data__train_dataloader": {"persistent_workers": True}, "hooks": [
        hook("ExpMomentumEMAHook", momentum=0.1, priority=49), hook("SyncNormHook", num_last_epochs=1, interval=1),
        hook("SetEpochInfoHook"), hook("CheckInvalidLossHook", interval=1), hook("EmptyCacheHook", after_iter=True),
        hook("ProfilerHook", profile_iters=1, activities=["cpu"])]}),
    "by iterations, seesaw, fp16, buffers in step": (2, 2, 3, {
        "loss": "seesaw", "max_iters": 4, "fp16": {"loss_scale": "dynamic"},
        "norm": {"type": "GN", "num_groups": 4},  # mmcv's hook cannot average the batches that BN counts
        "hooks": [hook("EMAHook", momentum=0.1, priority=49), hook("LinearMomentumEMAHook", priority=49),
                  hook("SyncBuffersHook")]}),
    "SyncBN, gradients over two iterations, cyclic rates": (2, 2, 2, {
        "hooks": [], "norm": SYNC_BN,
        "optimizer_config": {"type": "GradientCumulativeOptimizerHook", "cumulative_iters": 2},
        "lr_config": {"_delete_": True, "policy": "cyclic"}, "momentum_config": {"policy": "cyclic"}}),
    "one GPU, the re-implementation's ECM, fp16 at a fixed scale": (1, 1, 1, {
        "hooks": [], "max_iters": 2, "fp16": {"loss_scale": 512.0},
        "model__roi_head__bbox_head__loss_cls__type": "EffectiveClassMarginLossNick"}),
    "one GPU for two ranks, fp16 over two iterations, SyncBN, seesaw": (1, 2, 2, {
        "hooks": [], "loss": "seesaw", "norm": SYNC_BN,
        "optimizer_config": {"type": "GradientCumulativeFp16OptimizerHook", "cumulative_iters": 2,
                             "loss_scale": "dynamic"}}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_training_is_stopped_by_a_signal_and_resumed_to_its_end(gpus, few, tmp_path, case):
    world, virtual, stop, options = CASES[case]
    run = gpus.train(config(few, **options), tmp_path / "run", [(world, stop), (world, None)], virtual)
    assert run.completion() is not None
    assert [e["iteration"] for e in run.events() if e.kind == "commit"][0] == stop
    assert all(line["memory"] > 0 for line in log_lines(run)), "the logger measures the GPU's memory"
    buffers = end(run)["rank_buffers"]
    if options.get("loss") == "seesaw" and "SyncBuffersHook" not in str(options):
        assert len(buffers) == virtual
    if options.get("norm") == SYNC_BN:
        assert ("act as plain BN" in run.train_log.read_text()) == (world == 1)
        assert world == 1 or buffers == [], "every rank has the statistics of all"


def test_resumed_on_three_gpus_it_sums_gradients_in_the_same_order(gpus, few, tmp_path):
    cfg = config(few, [], "seesaw", max_iters=3)
    through = gpus.train(cfg, tmp_path / "through", [(3, None)], 3)
    broken = gpus.train(cfg, tmp_path / "broken", [(3, 1), (3, None)], 3)
    assert bits(end(broken)) == bits(end(through))


def test_mmdets_seeds_means_and_evaluations_run_between_the_ranks(gpus, few, tmp_path):
    cfg = config(few, [])
    cfg["custom_hooks"] += [hook("Collectives", test=cfg["data"]["val"]),
                            hook("Evaluating", test=cfg["data"]["val"], interval=1, priority="LOW"),
                            hook("Evaluating", test=cfg["data"]["val"], interval=1, gpu_collect=True, priority="LOW")]
    cfg["runner"]["max_epochs"] = 1
    run = gpus.train(cfg, tmp_path / "run", [(2, None)], 2)
    assert end(run)["meta"]["seen"] == [0.5, 4, 4]


@pytest.mark.parametrize(("device", "unused_on"), [("cuda", [0, 1]), ("cuda", [1]), ("cpu", [0, 1])])
def test_a_parameter_without_a_gradient_is_named_in_the_first_step_on_any_device(gpus, few, tmp_path, device,
                                                                                 unused_on):
    cfg = config(few, [], max_iters=2)
    cfg["model"].update(type="WithLeftover", unused_on=unused_on)
    run = make(cfg, tmp_path / "run", 2, device)
    begin(run, 1)
    assert gpus.ask(run, 1, 2) == [1, 1], said(run)
    assert why(run)[0] == (
        f"rank {unused_on[0]}: model: the loss does not depend on leftover.weight, leftover.bias, so the "
        "ranks cannot average the gradients; set find_unused_parameters = True in the config, or remove these "
        "parameters from the model"), said(run)
    assert log_lines(run) == [], "no step was taken"
    cfg["find_unused_parameters"] = True
    assert gpus.train(cfg, tmp_path / "found", [(2, None)], 2, device).completion() is not None


def yolox(data: Path) -> dict[str, Any]:
    """mmdet's own configuration of YOLOX, smaller: its hooks reach into loader, data set and model."""
    cfg = config(data, [
        hook("YOLOXModeSwitchHook", num_last_epochs=1, priority=48),
        hook("SyncNormHook", num_last_epochs=1, interval=1, priority=48),
        hook("ExpMomentumEMAHook", momentum=0.1, priority=49)])
    cfg["model"] = {
        "type": "YOLOX", "input_size": (64, 64), "random_size_range": (2, 3), "random_size_interval": 2,
        "backbone": {"type": "CSPDarknet", "deepen_factor": 0.33, "widen_factor": 0.125},
        "neck": {"type": "YOLOXPAFPN", "in_channels": [32, 64, 128], "out_channels": 32, "num_csp_blocks": 1},
        "bbox_head": {"type": "YOLOXHead", "num_classes": CLASSES, "in_channels": 32, "feat_channels": 32},
        "train_cfg": {"assigner": {"type": "SimOTAAssigner", "center_radius": 2.5}}}
    pad = {"type": "Pad", "pad_to_square": True, "pad_val": {"img": (114.0, 114.0, 114.0)}}
    mixed = [{"type": "Mosaic", "img_scale": (64, 64), "pad_val": 114.0},
             {"type": "MixUp", "img_scale": (64, 64), "ratio_range": (0.8, 1.6), "pad_val": 114.0},
             {"type": "YOLOXHSVRandomAug"}, {"type": "RandomFlip", "flip_ratio": 0.5},
             {"type": "Resize", "img_scale": (64, 64), "keep_ratio": True}, pad, {"type": "DefaultFormatBundle"},
             {"type": "Collect", "keys": ["img", "gt_bboxes", "gt_labels"]}]
    images = {**cfg["data"]["train"]["dataset"], "filter_empty_gt": True, "pipeline": [
        {"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_bbox": True}]}
    cfg["data"]["train"] = {"type": "MultiImageMixDataset", "dataset": images, "pipeline": mixed}
    cfg["runner"]["max_epochs"] = 3
    cfg["lr_config"] = {"policy": "YOLOX", "warmup": "exp", "by_epoch": False, "warmup_by_epoch": True,
                        "warmup_ratio": 1, "warmup_iters": 1, "num_last_epochs": 1, "min_lr_ratio": 0.05}
    return cfg


def test_yolox_with_its_hooks_changes_sizes_and_augmentation_on_all_ranks_together(gpus, few, tmp_path):
    run = gpus.train(yolox(few), tmp_path / "run", [(2, None)], 2)
    with_l1 = [line["epoch"] for line in log_lines(run) if "loss_l1" in line]
    assert set(with_l1) == {2, 3}, "as mmdet's hook has it, which takes one epoch more than configured"


def test_an_evaluation_on_gpus_finds_and_scores_what_one_on_cpus_does(gpus, few, tmp_path):
    cfg = config(few, [], max_iters=1)
    element = evaluations.Element("last", {"temperature": 2.0, "margin": 0.5})
    on_gpus = gpus.train(cfg, tmp_path / "gpus", [(2, None)], 2)
    evaluations.write(on_gpus, "evaluate", [element])
    shutil.copytree(on_gpus.path, tmp_path / "cpus")
    on_cpus = Run(tmp_path / "cpus")
    spec = json.loads(on_cpus.run_file.read_text())
    spec["job"]["device"] = "cpu"
    on_cpus.run_file.write_text(json.dumps(spec))
    found = []
    for run in (on_gpus, on_cpus):
        work = evaluations.of_element(run, element)
        assert work is not None
        for folder in (work.attempts_dir, work.logs_dir):
            folder.mkdir(parents=True)
        assert gpus.ask(run, 2, 2, evaluate=True) == [0, 0], said(run)
        detections = read_shards(evaluations.chunk_files(work) or [])
        found.append([detections.image_id.tolist(), detections.score.tolist(), detections.bbox.tolist(),
                      work.metrics(evaluations.scoring_variant({}))["figures"]])
    assert found[0] == found[1] and found[0][0]


def test_where_memory_cannot_be_pinned_checkpoints_are_copied_and_the_training_continues(gpus, few, tmp_path):
    cfg = config(few, [], max_iters=2)
    plain = gpus.train(cfg, tmp_path / "plain", [(1, None)], 1, every=1, EMULATED_GPU_NO_PINNING="1")
    assert bits(end(plain)) == bits(end(gpus.train(cfg, tmp_path / "pinned", [(1, None)], 1, every=1)))


@pytest.mark.parametrize(("env", "cause", "text"), [
    ({"EMULATED_GPU_BYTES": str(6 << 20)}, "out of GPU memory", "lower data.samples_per_gpu"),
    ({"EMULATED_GPU_ERROR": "214"}, "GPU failure", "uncorrectable ECC error encountered")])
def test_a_gpu_that_is_too_small_or_broken_is_recorded_as_the_cause(gpus, few, tmp_path, env, cause, text):
    run = make(config(few, [], max_iters=2), tmp_path / "run", 1, "cuda", every=1)
    begin(run, 1)
    assert gpus.ask(run, 1, 1, **env) == [1], said(run)
    (ended,) = [e for e in run.events() if e.kind == "end"]
    assert ended["cause"] == cause and text in ended["detail"], ended["detail"]


def test_an_assignment_that_is_too_large_for_the_gpu_is_done_on_the_cpu(gpus, few, tmp_path):
    cfg = config(few, [hook("Crowded")], max_iters=1)
    run = gpus.train(cfg, tmp_path / "run", [(1, None)], 1, EMULATED_GPU_BYTES=str(64 << 20))
    assert "falling back to the CPU" in said(run)


def test_what_fails_on_a_gpu_fails_here(gpus, few, tmp_path):
    run = gpus.train(config(few, [hook("Refused")], max_iters=1), tmp_path / "run", [(2, None)], 2)
    noted = [json.loads(path.read_text()) for path in run.logs_dir.glob("*.said")]
    expected = {
        "a collective on a CPU tensor": "RuntimeError: No backend type associated with device type cpu",
        "numpy of a CUDA tensor": "TypeError: can't convert cuda:RANK device type tensor to numpy. Use Tensor.cpu() to "
                                  "copy the tensor to host memory first.",
    }
    assert len(noted) == 2
    for rank, found in enumerate(sorted(noted, key=str)):
        for name, text in expected.items():
            assert found[name] == text.replace("RANK", str(rank))
        for name in ("a CPU tensor among CUDA tensors", "weights on the CPU", "a mask operator with both"):
            assert found[name].startswith("RuntimeError: Expected all tensors to be on the same device"), found[name]
        assert found["too large an allocation"].startswith("OutOfMemoryError: CUDA out of memory.")
        assert "invalid device ordinal" in found["a missing GPU"]
