"""The plan says whether a resumed run will be the same one: what a config keeps outside its checkpoints."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from ecm_cluster.mmconfig import config
from ecm_cluster.plan import reproducibility

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "configs").rglob("*.py") if "_base_" not in p.parts)


def demo(**changes: object) -> dict:
    return config.apply_options(config.read(str(ROOT / "configs/demo.py")), changes)


@pytest.mark.parametrize("path", SHIPPED)
def test_every_shipped_config_is_exact_and_elastic(path):
    cfg = config.read(str(ROOT / path))
    assert reproducibility.problems(cfg) == []
    assert reproducibility.elastic_problems(cfg) == []


def test_a_hook_that_keeps_state_elsewhere_is_named_with_its_reason():
    cfg = demo(custom_hooks=[{"type": "SyncRandomSizeHook"}, {"type": "ExpMomentumEMAHook"}])
    said = reproducibility.describe(cfg, "cpu")
    assert said.startswith("no, because custom_hooks: SyncRandomSizeHook: it draws the next epoch's")
    assert "EMA" not in said


@pytest.mark.parametrize(("changes", "named"), [
    ({"custom_hooks": [{"type": "MyHook"}]}, "custom_hooks: MyHook"),
    ({"data.train.type": "MyData"}, "data.train: MyData"),
    ({"data.train.dataset.pipeline": [{"type": "LoadImageFromFile"}, {"type": "Albu"}]}, "data.train: Albu"),
    ({"optimizer_config.type": "MyOptimizerHook"}, "optimizer_config: MyOptimizerHook"),
    ({"model.roi_head.type": "DynamicRoIHead"}, "model: DynamicRoIHead"),
    ({"custom_hooks": [{"type": "EMAHook"}, {"type": "ExpMomentumEMAHook"}]},
     "custom_hooks: EMAHook and ExpMomentumEMAHook store their averages"),
])
def test_what_is_not_known_to_be_exact_is_not(changes, named):
    (found,) = reproducibility.problems(demo(**changes))
    assert found.startswith(named)


def test_a_gpu_is_promised_the_same_samples_but_not_the_same_bits():
    assert reproducibility.describe(demo(), "cpu").startswith("yes")
    assert "samples" in reproducibility.describe(demo(), "cuda")
    assert "bit-identical" not in reproducibility.describe(demo(), "cuda")


def test_statistics_over_processes_depend_on_their_number():
    cfg = demo(**{"model.backbone.norm_cfg": {"type": "SyncBN"}, "model.rpn_head.type": "ATSSHead"})
    assert [text.split()[0] for text in reproducibility.elastic_problems(cfg)] == ["SyncBN", "ATSSHead"]
    said = reproducibility.describe(cfg, "cpu")
    assert "; another number of ranks would change it: SyncBN computes its statistics" in said
    assert "another number" not in reproducibility.describe(demo(), "cpu")


def test_every_name_that_counts_as_exact_is_registered_in_mmcv_or_mmdet():
    pytest.importorskip("mmdet")
    from mmcv.runner import HOOKS
    from mmdet.datasets import DATASETS, PIPELINES, CustomDataset
    from mmdet.models import HEADS

    import mmdet_ext.register  # noqa: F401

    assert sorted(n for n in reproducibility.HOOKS if HOOKS.get(n) is None) == []
    newer = set() if "seg_suffix" in inspect.signature(CustomDataset.__init__).parameters else {
        "Objects365V1Dataset", "Objects365V2Dataset"}  # of mmdet 2.26
    assert sorted(n for n in reproducibility.DATASETS - newer if DATASETS.get(n) is None) == []
    assert sorted(n for n in reproducibility.TRANSFORMS if PIPELINES.get(n) is None) == []
    assert sorted(n for n in reproducibility.AVERAGING_HEADS if HEADS.get(n) is None) == []
