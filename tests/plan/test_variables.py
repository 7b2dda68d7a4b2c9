"""A section of a config whose name is misspelt, beside the right one: no variable, since nothing refers to it."""

from __future__ import annotations

import pytest

from ecm_cluster.mmconfig import config
from ecm_cluster.plan import variables

BASE = "model = dict(type='A')\noptimizer = dict(lr=1)\nlr_config = dict(step=[8])\nload_from = None\nrunner = dict()\n"


def said(tmp_path, text: str) -> list[str]:
    (tmp_path / "base.py").write_text(BASE)
    path = tmp_path / "own.py"
    path.write_text(f"_base_ = 'base.py'\n{text}\n")
    return variables.warnings(config.read(path), config.bases(path))


@pytest.mark.parametrize(("text", "near"), [
    ("modle = dict(type='B')", "model"), ("optimiser = dict(lr=2)", "optimizer"), ("lr_conf = dict()", "lr_config"),
    ("evaluaton = dict(interval=2)", "evaluation"), ("load_form = 'a.pth'", "load_from"), ("datas = []", "data"),
    ("Optimizer = dict(lr=2)", "optimizer"), ("custom_hook = [dict(type='EMAHook')]", "custom_hooks"),
    ("modle = dict(type='B')\nmodle.update(neck=None) if False else None", ""),
])
def test_a_misspelt_section_that_nothing_refers_to_is_warned_of(tmp_path, text, near):
    found = said(tmp_path, text)
    name = text.partition(" ")[0]
    assert found == ([f"the config sets {name}, which neither mmdet nor the config itself uses; did you mean "
                      f"{near}?"] if near else [])


@pytest.mark.parametrize("text", [
    "model_ = dict(type='B')\nmodel = model_", "models = ['a']\nmodel = dict(type=models[0])",
    "optimizer1 = 3\noptimizer = dict(lr='${optimizer1}')", "img_norm_cfg = dict()", "dataset_type = 'CocoDataset'",
    "classes = ('a',)", "model = dict(type='B')", "_data = 3\nmodel = dict(a=f'{_data}')"])
def test_a_variable_is_not_a_section(tmp_path, text):
    assert said(tmp_path, text) == []


def test_a_variable_of_a_base_that_a_placeholder_refers_to_is_not_a_section(tmp_path):
    (tmp_path / "variables.py").write_text("models = 'B'\n")
    path = tmp_path / "own.py"
    path.write_text("_base_ = 'variables.py'\nmodel = dict(type={{ _base_.models }})\n")
    assert variables.warnings(config.read(path), config.bases(path)) == []
