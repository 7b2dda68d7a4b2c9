"""A module that no rank could import is known at submission, from files alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ecm_cluster.job import job
from ecm_cluster.plan import modules


def said(*imports: str, **values: object) -> list[str]:
    return modules.problems({"custom_imports": {"imports": list(imports)}}, job.make(values))[0]


@pytest.fixture
def code(tmp_path) -> Path:
    folder = tmp_path / "code"
    (folder / "losses/margin").mkdir(parents=True)
    (folder / "heads.py").touch()
    (folder / "losses/__init__.py").touch()
    (folder / "losses/margin/own.py").touch()
    return folder


def test_modules_of_the_users_code_of_ours_and_of_the_environment_are_found(code):
    assert said("heads", "losses", "losses.margin.own", "mmdet_ext.register", "yaml", "json", "sys", "os.path",
                "collections.abc", "xml.etree.ElementTree", "importlib.util", code=str(code)) == []
    (code / "six.py").write_text("import sys, types\nsys.modules[__name__ + '.moves'] = types.ModuleType('moves')\n")
    assert said("six.moves", code=str(code)) == [], "which the module itself makes"


@pytest.mark.parametrize("name", ["heds", "losses.margn", "losses.margin.other", "mmdet_ext.registr", "yaml.nosuch",
                                  "heads.MyHead", "json.nosuch", "os.nosuch.path", ".heads", "heads."])
def test_a_module_that_is_nowhere_is_named_with_the_place_and_the_remedy(code, name):
    text, = said("heads", name, code=str(code))
    assert f"custom_imports: module {name!r} not found in --code {code}, and none is installed for " in text
    assert text.endswith("specify its directory with --code")


@pytest.mark.parametrize("name, meant", [("heads.py", "heads"), ("losses/margin/own.py", "losses.margin.own"),
                                         ("./heads.py", "heads")])
def test_a_path_in_place_of_a_module_is_named_with_the_module(code, name, meant):
    text, = said(name, code=str(code))
    assert f"module {name!r} not found" in text and f"did you mean {meant!r}?" in text


@pytest.mark.parametrize("section, wrong", [
    ({"imports": ("heads",)}, "invalid custom_imports.imports: ('heads',); expected a list of module names"),
    ({"allow_failed_imports": True}, "custom_imports has no imports"),
    ({"imports": {"a": 1}}, "invalid custom_imports"),
    ({"imports": [None]}, "invalid custom_imports.imports: None")])
def test_forms_that_mmcv_does_not_take_are_refused(code, section, wrong):
    text, = modules.problems({"custom_imports": section}, job.make({"code": str(code)}))[0]
    assert wrong in text
    for section in (None, {}, {"imports": None}, {"imports": []}, {"imports": ""}, {"imports": "heads"}):
        assert modules.problems({"custom_imports": section}, job.make({"code": str(code)})) == ([], [])


def test_a_package_that_is_not_a_python_is_named(code):
    (code / "losses/__init__.py").write_text("x = )\n")
    for name in ("losses", "losses.margin.own"):
        text, = said(name, code=str(code))
        assert text.startswith(f"config: custom_imports: {code / 'losses/__init__.py'}:1: ")


def test_a_module_that_is_not_a_python_and_code_that_is_not_a_folder_are_named(code):
    (code / "heads.py").write_text("ok = 1\nx = )\n")
    text, = said("heads", code=str(code))
    assert text.startswith(f"config: custom_imports: {code / 'heads.py'}:2: ") and "fix the module" in text
    for wrong in (code / "heads.py", code / "nosuch"):
        text, = said(code=str(wrong))
        assert text == f"--code {wrong}: is not a directory; expected the directory of your modules"
    text, = modules.problems({"custom_imports": {"imports": [1]}}, job.make({}))[0]
    assert "invalid custom_imports.imports: 1" in text


def test_a_module_of_the_working_folder_is_not_one_that_a_rank_finds(code, monkeypatch):
    monkeypatch.chdir(code)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert len(said("heads")) == 1
    monkeypatch.setattr(sys, "path", [str(code), *sys.path[1:]])  # as `python -m` has it
    assert len(said("heads")) == 1
    monkeypatch.setenv("PYTHONPATH", str(code))  # which the job copies
    assert said("heads") == []


def test_what_the_jobs_own_setup_may_bring_is_doubted_only(code):
    cfg = {"custom_imports": {"imports": ["heds"]}}
    for values in ({"setup": ["module load own"]}, {"env": {"PYTHONPATH": "/modules"}}):
        refused, doubted = modules.problems(cfg, job.make(values))
        assert (refused, len(doubted)) == ([], 1)
    refused, doubted = modules.problems({"custom_imports": {"imports": ["heds"], "allow_failed_imports": True}},
                                        job.make({}))
    assert (refused, len(doubted)) == ([], 1)


@pytest.mark.parametrize("key", ["log_config", "custom_hooks", "data.train"])
def test_a_class_whose_module_is_not_installed_is_named(key, monkeypatch):
    block = {"hooks": [{"type": "TextLoggerHook"}, {"type": "MlflowLoggerHook"}]}
    cfg: dict = {"log_config": block, "custom_hooks": block["hooks"],
                 "data.train": {"type": "CocoDataset", "pipeline": [{"type": "Albu"}]}}
    cfg = {"data": {"train": cfg[key]}} if key == "data.train" else {key: cfg[key]}
    monkeypatch.setattr(sys, "path", sys.path[:1])
    (text,), doubted = modules.problems(cfg, job.make({}))
    assert "needs the module" in text and text.startswith(f"config: {key}.") and doubted == []
    assert modules.problems(cfg, job.make({"setup": ["module load more"]})) == ([], [text])
    assert modules.problems(cfg, job.make({"python": "/elsewhere/python"})) == ([], [])
    assert modules.problems({"train_pipeline": cfg}, job.make({})) == ([], []), "a variable"


def test_of_another_interpreter_nothing_is_claimed():
    assert said("heds", python="/elsewhere/python") == []
    assert said() == []
    assert modules.problems({}, job.make({})) == ([], [])
