"""``diff``: what two runs have on record that differs, and what a run's config was made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import former_version
import pytest
from attempts.ledgers import attempt, events, spec
from small import ROOT

from ecm_cluster import diff
from ecm_cluster.diff import base
from ecm_cluster.rundir.run import Run

CONFIG = "model = dict(type='A', size={size})\ndata = dict(train=dict(type='LVIS'))\noptimizer = dict(type='SGD')\n" \
         "lr_config = dict(policy='step')\nrunner = dict(type='EpochBasedRunner', max_epochs=1)\n"


def made(folder: Path, name: str, size: int = 1, **record: Any) -> Run:
    """A run as its submission would have left it."""
    run = spec(Run(folder / "runs" / name), seed=record.pop("seed", 0))
    run.config_file.write_text(CONFIG.format(size=size))
    document = json.loads(run.run_file.read_text())
    document.update({"config": "mine.py", "code": {"digest": name, "configs": ["mine.py"]},
                     "digests": {"config": name, "train_annotations": "sha256:1"},
                     "versions": {"torch": "1.13.1"}, **record})
    run.run_file.write_text(json.dumps(document))
    for file, text in (("ecm_cluster/x.py", "same = 1\n"), ("user/mine.py", f"name = {name!r}\n"),
                       ("configs/mine.py", CONFIG.format(size=0))):
        path = run.code_folder(1) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return run


def said(capsys: Any, *words: object) -> str:
    assert diff.main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def packages(run: Run, **versions: str) -> None:
    run.environment_file.write_text(json.dumps({"python": "3.8.20", "distributions": [
        {"name": name, "version": version} for name, version in versions.items()]}))


def test_what_differs_is_named_by_section(tmp_path, capsys):
    weights = [{"key": "model.init", "source": "torchvision://resnet50", "digest": "sha256:9", "path": "/cache/a"}]
    one, two = made(tmp_path, "one"), made(tmp_path, "two", size=2, seed=3, weights=weights, digests={
        "train_annotations": "sha256:2"})
    packages(one, torch="1.13.1", numpy="1.23.0")
    packages(two, torch="2.8.0", mmdet="2.28.2", numpy="1.23.0")
    text = said(capsys, one.path, two.path)
    assert text == f"""\
A  {one.path}
B  {two.path}

config
  model.size: 1 -> 2

job
  seed: 0 -> 3

data
  digests.train_annotations: sha256:1 -> sha256:2

weights
  + model.init: {{'source': 'torchvision://resnet50', 'digest': 'sha256:9'}}

environment
  packages.torch: 1.13.1 -> 2.8.0
  + packages.mmdet: 2.28.2

code
  user/mine.py
"""
    assert "-name = 'one'\n+name = 'two'\n" in said(capsys, one.path, two.path, "--code")
    report = json.loads(said(capsys, one.path, two.path, "--json"))
    assert report["config"] == [{"key": "model.size", "a": 1, "b": 2}] and not report["same"]
    assert report["code"]["changed"] == ["user/mine.py"]


def test_two_runs_of_the_same_have_no_difference(tmp_path, capsys):
    one = made(tmp_path, "one")
    assert said(capsys, one.path, one.path).endswith(f"\n\n{diff.verb.SAME}\n")
    assert json.loads(said(capsys, one.path, one.path, "--json"))["same"]


def test_one_run_is_compared_with_the_config_that_it_was_made_from(tmp_path, capsys):
    run = made(tmp_path, "one", size=5)
    text = said(capsys, run.path)
    assert text.startswith(f"A  mine.py\nB  {run.path}\n\nconfig\n  model.size: 0 -> 5\n"), text


def test_data_elsewhere_is_one_change_and_many_files_are_not_all_named(tmp_path, capsys):
    runs = [made(tmp_path, "one"), made(tmp_path, "two")]
    for run, root in zip(runs, ("/here/", "/there/lvis/")):
        run.config_file.write_text(f"data_root = {root!r}\nmodel = {{}}\n"
                                   f"data = {{'train': {{'ann_file': {root + 'a.json'!r}, 'img_prefix': {root!r}}}}}\n")
    for number in range(30):
        (runs[1].code_folder(1) / f"user/new{number:02d}.py").write_text("")
    text = said(capsys, runs[0].path, runs[1].path)
    assert "config\n  data_root: /here/ -> /there/lvis/\n\n" in text
    assert "  + user/new00.py\n" in text and "  … and 11 more files\n" in text and "new29" not in text


def test_what_changed_while_it_ran(tmp_path, capsys):
    run = made(tmp_path, "one")
    packages(run, torch="1.13.1")
    gpus = ["NVIDIA A100", "NVIDIA H100"]
    for number in (1, 2):
        attempt(run, number, 100.0 * number, world_size=2 * number)
        events(run, number, "machine", (100.0, "machine", {"host": "n1", "gpus": [gpus[number - 1]], "driver": "550"}))
    events(run, 1, "resume", (150.0, "resumed", {"stages": ["train"], "overrides": {
        "job": {"gpus": 4}, "from": {"iteration": 40, "after": 1}}}))
    run.environment_of(2).write_text(json.dumps({"python": "3.8.20", "distributions": [
        {"name": "torch", "version": "2.8.0"}]}))
    text = said(capsys, run.path)
    assert text[text.index("while it ran"):] == """\
while it ran
  resumed after attempt 1: gpus 4, from iteration 40
  attempt 2: gpus: ['NVIDIA A100'] -> ['NVIDIA H100']
  attempt 2: ranks: 2 -> 4
  attempt 2: packages.torch: 1.13.1 -> 2.8.0
"""


def test_a_config_of_another_user_is_not_executed(tmp_path, monkeypatch):
    run = made(tmp_path, "one")
    mark = tmp_path / "executed"
    (run.code_folder(1) / "configs/mine.py").write_text(f"open({str(mark)!r}, 'w')\n{CONFIG.format(size=0)}")
    monkeypatch.setattr(Run, "is_own", False)
    assert base.of(run) is None and not mark.exists()
    outside = {"code": {"configs": ["../../../../evil.py"]}}
    assert base.of(made(tmp_path, "two", **outside)) is None
    shipped = made(tmp_path, "three", config="configs/demo.py", code={"configs": ["demo.py"]})
    (shipped.code_folder(1) / "configs/demo.py").write_text((ROOT / "configs/demo.py").read_text())
    found = base.of(shipped)
    assert found and found[0] == "configs/demo.py", "the same file of this installation is"


@pytest.mark.parametrize("broken", ["config.py", "environment.json", "code"])
def test_what_is_damaged_is_said(tmp_path, capsys, broken):
    one, two = made(tmp_path, "one"), made(tmp_path, "two")
    packages(two, torch="2.8.0")
    path = two.path / broken
    if broken == "code":
        target = path / "user/mine.py"
        target.unlink()
        target.symlink_to("/dev/zero")
    else:
        path.write_text("{")
    if broken == "config.py":
        with pytest.raises(Exception, match=r"config\.py"):
            diff.main([str(one.path), str(two.path)])
    else:
        assert "damaged: " in said(capsys, one.path, two.path)


def test_a_run_of_the_former_version(tmp_path, capsys):
    run = former_version.complete(tmp_path)
    text = said(capsys, run.path, made(tmp_path, "new").path)
    assert "packages.torch" in text and "within A\n  resumed after attempt 1: mem_per_gpu 3G" in text
    assert "is not available" in said(capsys, run.path)
