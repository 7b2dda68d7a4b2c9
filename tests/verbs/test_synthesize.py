"""The verb that makes a synthetic dataset: whole or not at all, once, and never over something else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ecm_cluster import synthesize
from ecm_cluster.annotations.layout import check_annotation_file, check_images
from ecm_cluster.console import cli

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
FEW = ["--train-images", "6", "--val-images", "3", "--classes", "2", "--image-size", "32"]


def call(*arguments: object) -> int:
    return cli.run(synthesize.main, [str(a) for a in arguments])


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def python(*arguments: str, **env: str) -> subprocess.CompletedProcess:
    env = {**os.environ, **env}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=env)


def assert_usable(root: Path) -> None:
    for split in ("train", "val"):
        found = check_annotation_file(root / f"annotations/lvis_v1_{split}.json", lvis=True)
        assert len(found.categories) == 2 and check_images(found, root).is_file()


def test_it_writes_a_data_root_that_passes_the_check_and_says_what_is_in_it(tmp_path, capsys):
    assert call(tmp_path / "deep" / "set", *FEW, "--seed", 4) == 0
    out, err = capsys.readouterr()
    assert "written" in out and "train 6 images" in out and "classes by frequency" in out
    assert err == ""  # a line every few seconds where there is no terminal
    assert_usable(tmp_path / "deep" / "set")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["set"]


def test_the_same_call_again_touches_nothing_and_says_so(tmp_path, capsys):
    out = tmp_path / "set"
    call(out, *FEW)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    capsys.readouterr()
    assert call(out, *FEW) == 0
    assert "already complete, nothing to do" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


@pytest.mark.parametrize("name", ["train2017/000000000002.jpg", "annotations/lvis_v1_val.json"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"")], ids=["gone", "emptied"])
def test_a_damaged_set_is_repaired(tmp_path, capsys, name, damage):
    out = tmp_path / "set"
    call(out, *FEW)
    whole = tree(out)
    damage(out / name)
    assert call(out, *FEW) == 0
    assert "was damaged, recreated" in capsys.readouterr().out
    assert tree(out) == whole
    assert list(tmp_path.iterdir()) == [out]


def test_other_arguments_are_refused_unless_forced(tmp_path, capsys):
    out = tmp_path / "set"
    call(out, *FEW)
    whole = tree(out)
    assert call(out, *FEW, "--seed", 9) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "--seed was 0" in message and "--force" in message
    assert tree(out) == whole
    assert call(out, *FEW, "--seed", 9, "--force") == 0
    assert tree(out) != whole
    assert list(tmp_path.iterdir()) == [out]


def test_an_empty_folder_is_taken_and_anything_else_left_alone_even_when_forced(tmp_path, capsys):
    empty, other, file = tmp_path / "empty", tmp_path / "other", tmp_path / "file"
    empty.mkdir()
    (other / "annotations").mkdir(parents=True)
    (other / "annotations" / "lvis_v1_train.json").write_text("mine")
    file.write_text("mine")
    assert call(empty, *FEW) == 0
    for taken in (other, file):
        capsys.readouterr()
        assert call(taken, *FEW, "--force") == 2
        assert "did not create" in capsys.readouterr().err
    assert tree(other) == {"annotations/lvis_v1_train.json": b"mine"}
    assert file.read_text() == "mine"


def test_a_directory_that_cannot_be_written_is_reported_in_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert call(tmp_path / "file" / "set", *FEW) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and "cannot be written" in message and message.count("\n") == 1


@pytest.mark.parametrize(
    "moment", ["before-rename:lvis_v1_val.json", "before-rename:synthetic.json", "before-rename:/set"]
)
def test_a_kill_leaves_nothing_at_out_and_the_next_call_cleans_up(tmp_path, moment):
    out = tmp_path / "set"
    verb = ["-m", "ecm_cluster.synthesize", str(out), *FEW]
    assert python(*verb, ECM_CLUSTER_KILL_AT=moment).returncode == -signal.SIGKILL
    assert not out.exists()
    assert [p.name.startswith(".set.tmp-") for p in tmp_path.iterdir()] == [True]
    assert call(out, *FEW) == 0
    assert list(tmp_path.iterdir()) == [out]
    assert_usable(out)


def test_a_set_being_replaced_is_never_lost_to_a_kill(tmp_path):
    out = tmp_path / "set"
    call(out, *FEW)
    whole = tree(out)
    verb = ["-m", "ecm_cluster.synthesize", str(out), *FEW, "--seed", "9", "--force"]
    assert python(*verb, ECM_CLUSTER_KILL_AT="before-rename:/set").returncode == -signal.SIGKILL
    assert tree(out) == whole


def test_help_needs_no_numpy_and_the_verb_names_the_remedy():
    without = ("import sys; sys.modules['numpy'] = None; from ecm_cluster.console import cli; "
               "from ecm_cluster import synthesize; ")
    run = without + "raise SystemExit(cli.run(synthesize.main, sys.argv[1:]))"
    shown = python("-c", run, "--help")
    assert shown.returncode == 0 and "--train-images" in shown.stdout
    refused = python("-c", run, "somewhere")
    assert refused.returncode == 2 and refused.stdout == ""
    assert refused.stderr.count("\n") == 1 and "pip install 'ecm-cluster[train]'" in refused.stderr
    assert not Path("somewhere").exists()


def test_numbers_out_of_range_are_refused_before_anything_is_written(tmp_path, capsys):
    assert call(tmp_path / "set", "--classes", "5000") == 2
    assert "invalid --classes: 5000; expected 1 to 1296" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
