"""What a check finds in a job that cannot work, in one line each, and what it leaves alone."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import processes.framework_in_process  # noqa: F401 (before anything else imports torch)
import pytest
import torch
from mmcv import Config
from small import CLASSES, ROOT

from ecm_cluster.checking import findings
from ecm_cluster.checking.findings import Findings, Report
from ecm_cluster.job import job
from ecm_cluster.node.checks import blame, needs, small, steps
from ecm_cluster.node.world import RankInfo
from ecm_cluster.plan import create, planning
from ecm_cluster.rundir.run import Run

HEADS = {f"model.roi_head.{head}.num_classes": CLASSES for head in ("bbox_head", "mask_head")}
ALONE = RankInfo(0, 1, 0, 0, 1, "check", 0, "local")
OWN_LOSS = """
import torch
from mmdet.models.builder import LOSSES

@LOSSES.register_module(force=True)
class OwnLoss(torch.nn.Module):
    custom_cls_channels = False

    def forward(self, cls_score, label, *args, **kwargs):
        raise KeyError("margin of class 3")
"""


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
    """A check takes up a run's folder, search path and threads."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(ROOT)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def made(data: Path, folder: Path, options: dict[str, Any] | None = None, **values: Any) -> Run:
    """A run of the demo's config, with options that no check of the plan looks at."""
    plan = planning.make(job.make({"config": "configs/demo.py", "device": "cpu", "data_root": str(data),
                                   "options": {**HEADS, **(options or {})}, "name": "run", **values}), "local")
    return create.create(Run(folder / "run"), plan)


def edited(run: Run, **changes: Any) -> Run:
    """The run with another frozen config."""
    cfg = Config.fromfile(str(run.config_file))
    cfg.merge_from_dict({key.replace("__", "."): value for key, value in changes.items()})
    run.config_file.write_text(cfg.pretty_text)
    return run


def checked(run: Run) -> Report:
    """What all steps find on the CPU."""
    path = run.path.parent / "findings"
    with contextlib.suppress(steps.Stop):
        steps.all_of(run, ALONE, Findings(path), on_cpu=True)
    return findings.read(path)


@pytest.mark.slow
def test_a_sound_job_passes_every_step_and_what_it_needs_is_said(small_data, tmp_path):
    report = checked(made(small_data, tmp_path))
    assert (report.failure, report.skipped, report.rest) == ("", {}, [])
    assert report.ended
    assert report.done["training data"] == "24 samples"
    assert report.done["a batch"] == "2 images of 128×128"
    assert "1.0 M parameters" in report.needs
    assert "optimizer state" in report.needs


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "said"), [
    ({"model__backbone__type": "ResNett"}, "model.backbone.type: 'ResNett' is not in the registry models of mmdet "
                                           "(did you mean ResNet?)"),
    ({"model__backbone__depht": 18}, "model.backbone.depht: ResNet has no argument 'depht'; did you mean depth?"),
    ({"optimizer__lrr": 1.0}, "optimizer.lrr: AdamW has no argument 'lrr'; did you mean lr?"),
    ({"model__roi_head__mask_head__num_classes": 5}, "--set model.roi_head.mask_head.num_classes=6"),
    ({"model__neck__in_channels": [16, 32, 64, 99]}, "config: model: RuntimeError"),
    ({"custom_imports": {"imports": ["no_such_losses"]}}, "module 'no_such_losses' not found"),
    ({"custom_hooks": [{"type": "NoSuchHook"}]}, "custom_hooks.0.type: 'NoSuchHook' is not in the registry "
                                                 "hook"),
    ({"lr_config": {"policy": "step", "step": [1], "warmup": "foo"}}, "config: lr_config: ValueError"),
    ({"data__train__dataset__pipeline": [{"type": "LoadImageFromFil"}]}, "did you mean LoadImageFromFile?"),
])
def test_what_cannot_be_built_or_run_is_named_with_its_key(small_data, tmp_path, changes, said):
    report = checked(edited(made(small_data, tmp_path), **changes))
    assert said in report.failure
    assert "\n" not in report.failure
    assert "Traceback" in report.trace


@pytest.mark.slow
def test_a_users_own_loss_that_fails_is_named_by_its_file_and_line(small_data, tmp_path):
    code = tmp_path / "code"
    code.mkdir()
    (code / "own_losses.py").write_text(OWN_LOSS)
    run = made(small_data, tmp_path, code=str(code))
    edited(run, custom_imports={"imports": ["mmdet_ext.register", "own_losses"]},
           model__roi_head__bbox_head__loss_cls={"_delete_": True, "type": "OwnLoss"})
    sys.path.insert(0, str(run.code_dir / "user"))
    failure = checked(run).failure
    assert "KeyError: 'margin of class 3'" in failure
    assert f"({code}/own_losses.py:10, in forward)" in failure


@pytest.mark.slow
def test_what_no_checkpoint_can_hold_is_named_before_anything_is_submitted(small_data, tmp_path):
    run = made(small_data, tmp_path)
    code = tmp_path / "hooks"
    code.mkdir()
    (code / "keeping_hook.py").write_text(
        "from mmcv.runner import HOOKS, Hook\n\nclass Thing:\n    pass\n\n@HOOKS.register_module(force=True)\n"
        "class KeepingHook(Hook):\n    def after_train_iter(self, runner):\n        runner.meta['kept'] = Thing()\n")
    sys.path.insert(0, str(code))
    report = checked(edited(run, custom_imports={"imports": ["mmdet_ext.register", "keeping_hook"]},
                            custom_hooks=[{"type": "KeepingHook"}]))
    assert report.failure == ""
    text, = report.warnings
    assert text.startswith("checkpoints will not contain meta.kept (keeping_hook.Thing), which a restart will lose")


@pytest.mark.slow
def test_weights_of_another_model_are_refused_and_fitting_ones_counted(small_data, tmp_path):
    weights = tmp_path / "weights.pth"
    torch.save({"state_dict": {"some.other.weight": torch.zeros(3)}}, weights)
    report = checked(made(small_data, tmp_path, {"load_from": str(weights)}))
    assert f"invalid load_from: none of the 1 tensors in {weights} fits the model" in report.failure


@pytest.mark.slow
@pytest.mark.parametrize("options", [
    {"fp16": {"loss_scale": "dynamic"}},
    {"optimizer_config": {"_delete_": True, "type": "GradientCumulativeFp16OptimizerHook", "cumulative_iters": 2}}])
def test_half_precision_is_a_matter_of_the_gpu_and_everything_else_of_such_a_job_is_checked(
        small_data, tmp_path, options):
    report = checked(made(small_data, tmp_path, options, device="cuda"))
    assert (report.failure, report.skipped, report.rest) == ("", {}, [])


@pytest.mark.slow
@pytest.mark.parametrize(("side", "failure", "done"), [(128, "", " at 128×128"), (4096, "Kernel size", "")])
def test_a_step_that_fails_on_small_images_is_taken_at_full_size_before_the_job_is_refused(
        small_data, tmp_path, monkeypatch, side, failure, done):
    code = tmp_path / "hooks"
    code.mkdir()
    (code / f"sized_hook_{side}.py").write_text(
        "from mmcv.runner import HOOKS, Hook\n\n@HOOKS.register_module(force=True)\nclass SizedHook(Hook):\n"
        "    def before_train_iter(self, runner):\n        size = runner.data_batch['img'].data[0].shape[-1]\n"
        f"        assert size >= {side}, 'Kernel size'\n")
    sys.path.insert(0, str(code))
    monkeypatch.setattr(small, "LONGEST", 64)
    report = checked(edited(made(small_data, tmp_path), custom_hooks=[{"type": "SizedHook"}],
                            custom_imports={"imports": ["mmdet_ext.register", f"sized_hook_{side}"]}))
    assert failure in report.failure and bool(failure) is bool(report.failure)
    assert report.done.get("forward and backward", "").endswith(done)


@pytest.mark.slow
def test_half_precision_on_the_cpu_is_refused(small_data, tmp_path):
    report = checked(made(small_data, tmp_path, {"fp16": {"loss_scale": 512.0}}))
    assert report.failure.startswith("config: fp16: half precision needs a GPU; ")


def test_an_error_of_a_missing_gpu_is_not_a_fault_of_the_job():
    for text in ("No CUDA GPUs are available", "deform_conv_forward: implementation for device cpu not found",
                 "\"addmm_impl\" not implemented for 'Half'"):
        assert "it needs a GPU" in str(blame.not_here(RuntimeError(text), True, "cuda"))
        assert blame.not_here(RuntimeError(text), True, "cpu") is None, "a job on CPUs fails in the same way"
    memory = RuntimeError("DefaultCPUAllocator: can't allocate memory: 1")
    assert "more memory" in str(blame.not_here(memory, True, "cpu"))
    assert blame.not_here(RuntimeError("No CUDA GPUs are available"), False, "cuda") is None
    assert blame.not_here(KeyError("x"), True, "cuda") is None


def test_a_big_annotation_file_is_cut_to_its_first_images(tmp_path, monkeypatch):
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 9, "height": 9} for n in range(500)]
    annotations = [{"id": n, "image_id": 499 - n // 2, "category_id": 1} for n in range(1000)]
    path = tmp_path / "big.json"
    path.write_text(json.dumps({"annotations": annotations, "images": images, "categories": [{"id": 1, "name": "a"}]}))
    monkeypatch.setattr(small, "BIG_FILE", 1000)
    cfg = Config({"data": {"train": {"dataset": {"ann_file": "big.json", "data_root": str(tmp_path)}},
                           "test": {"ann_file": str(path)}}})
    assert small.cut_annotations(cfg, tmp_path) == " (from part of big.json)"
    assert cfg.data.train.dataset.ann_file == cfg.data.test.ann_file
    cut = json.loads(Path(cfg.data.test.ann_file).read_text())
    assert [image["id"] for image in cut["images"]] == list(range(500 - small.CUT_IMAGES, 500))
    assert len(cut["annotations"]) == 2 * small.CUT_IMAGES
    assert cut["categories"] == [{"id": 1, "name": "a"}]


def test_a_file_laid_out_in_another_way_is_not_cut(tmp_path, monkeypatch):
    path = tmp_path / "big.json"
    path.write_text('{"images": {"1": 2}, "categories": []}')
    monkeypatch.setattr(small, "BIG_FILE", 1)
    cfg = Config({"data": {"test": {"ann_file": str(path)}}})
    assert small.cut_annotations(cfg, tmp_path) == ""
    assert cfg.data.test.ann_file == str(path)


def test_a_state_is_written_and_read_in_memory_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    size, lost = needs.round_trip({"state_dict": {"a": torch.zeros(1000)}, "meta": {"iter": 1}})
    assert (size[-2:], lost) == ("kB", [])
    assert not list(tmp_path.iterdir())


def test_a_batch_is_made_small_with_its_boxes_masks_and_metas():
    from mmcv.parallel import DataContainer
    from mmdet.core import BitmapMasks

    masks = BitmapMasks(np.ones((1, 800, 1344), np.uint8), 800, 1344)
    batch = {"img": DataContainer([torch.zeros(2, 3, 800, 1344)], stack=True),
             "img_metas": DataContainer([[{"img_shape": (800, 1333, 3), "pad_shape": (800, 1344, 3),
                                           "ori_shape": (480, 800, 3), "scale_factor": np.ones(4)}] * 2],
                                      cpu_only=True),
             "gt_bboxes": DataContainer([[torch.tensor([[0.0, 0.0, 1344.0, 800.0]])] * 2]),
             "gt_masks": DataContainer([[masks] * 2], cpu_only=True)}
    assert small.size(batch) == (2, 800, 1344)
    shrunk = small.shrink(batch)
    assert small.size(shrunk) == (2, 160, 256)
    assert shrunk["gt_bboxes"].data[0][0].tolist() == [[0.0, 0.0, 256.0, 160.0]]
    assert shrunk["gt_masks"].data[0][0].masks.shape == (1, 160, 256)
    meta = shrunk["img_metas"].data[0][0]
    assert (meta["img_shape"], meta["pad_shape"], meta["ori_shape"]) == ((160, 254, 3), (160, 256, 3), (160, 254, 3))
    assert small.shrink({**batch, "points": torch.zeros(1)}) is None
