"""The code of a run is a copy: whole, imported from there, and untouched by what happens to the original."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ecm_cluster.base.errors import UserError
from ecm_cluster.freeze import git, selection, snapshot
from ecm_cluster.mmconfig import config


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Two packages, two configs and a folder of user's modules, small ones."""
    home = tmp_path / "checkout"
    files = {
        "ecm_cluster/__init__.py": "VALUE = 1\n",
        "ecm_cluster/node/task.py": "from .. import VALUE\n",
        "ecm_cluster/data/names.json": "[1]\n",
        "ecm_cluster/__pycache__/task.cpython-311.pyc": "old",
        "mmdet_ext/__init__.py": "",
        "mmdet_ext/loss.py": "KIND = 'ecm'\n",
        "configs/_base_/model.py": "model = dict(depth=50)\n",
        "configs/ecm/r50.py": "_base_ = '../_base_/model.py'\n",
        "mine/heads/__init__.py": "from .box import LAYERS\n",
        "mine/heads/box.py": "LAYERS = 4\n",
        "mine/tools.py": "import heads\n",
        "mine/.git/config": "",
        "mine/.idea/x.py": "",
    }
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    return home


def packages(home: Path) -> list[Path]:
    return [home / "ecm_cluster", home / "mmdet_ext"]


def freeze(home: Path, target: Path) -> dict:
    """Freeze all there is in a checkout."""
    configs = [home / "configs/ecm/r50.py", home / "configs/_base_/model.py"]
    return snapshot.freeze(target, packages(home), configs, home / "mine")


def names(tree: Path) -> set[str]:
    return {p.relative_to(tree).as_posix() for p in tree.rglob("*") if not p.is_dir()}


def python(run_code: Path, code: str, cwd: Path) -> str:
    """What Python prints with a run's frozen code on its path."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(snapshot.python_path(run_code)),
           "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, "-c", code], env=env, cwd=cwd, check=True, capture_output=True,
                          text=True).stdout.strip()


# -- what is copied


def test_packages_configs_and_modules_are_copied_and_nothing_else(checkout: Path, tmp_path: Path) -> None:
    manifest = freeze(checkout, tmp_path / "run" / "code")
    assert names(tmp_path / "run/code") == {
        "ecm_cluster/__init__.py", "ecm_cluster/node/task.py", "ecm_cluster/data/names.json",
        "mmdet_ext/__init__.py", "mmdet_ext/loss.py", "configs/_base_/model.py", "configs/ecm/r50.py",
        "user/heads/__init__.py", "user/heads/box.py", "user/tools.py"}
    assert manifest["files"] == 10
    run = tmp_path / "run"
    assert manifest["bytes"] == sum((run / name).stat().st_size for name in names(run))
    assert manifest["configs"] == ["ecm/r50.py", "_base_/model.py"]
    assert manifest["configs_from"] == str(checkout / "configs")
    assert manifest["user"]["modules"] == ["heads", "tools"] and manifest["user"]["hide"] == []
    assert manifest["packages"]["mmdet_ext"]["from"] == str(checkout / "mmdet_ext")
    assert manifest["left_out"] == [] and json.loads(json.dumps(manifest)) == manifest


def test_the_copied_config_reads_as_the_original(checkout: Path, tmp_path: Path) -> None:
    original = config.read(checkout / "configs/ecm/r50.py")
    freeze(checkout, tmp_path / "code")
    shutil.rmtree(checkout)
    assert config.read(tmp_path / "code/configs/ecm/r50.py") == original == {"model": {"depth": 50}}


def test_configs_with_nothing_in_common_keep_their_place(checkout: Path, tmp_path: Path) -> None:
    mine = tmp_path / "elsewhere" / ".hidden" / "mine.py"
    mine.parent.mkdir(parents=True)
    mine.write_text(f"_base_ = '{checkout}/configs/_base_/model.py'\n")
    manifest = snapshot.freeze(tmp_path / "code", [], config.bases(mine))
    assert manifest["configs"] == ["elsewhere/.hidden/mine.py", "checkout/configs/_base_/model.py"]
    assert snapshot.digest(tmp_path / "code") == manifest["digest"]


def test_an_executable_file_stays_executable(checkout: Path, tmp_path: Path) -> None:
    (checkout / "mine/tools.py").chmod(0o755)
    freeze(checkout, tmp_path / "code")
    assert os.access(tmp_path / "code/user/tools.py", os.X_OK)
    assert not (tmp_path / "code/user/heads/box.py").stat().st_mode & 0o111


# -- what it is good for


def test_our_packages_are_imported_from_the_copy_when_the_original_breaks(tmp_path: Path, root: Path) -> None:
    site = tmp_path / "site"
    for package in snapshot.own_packages():
        assert package.parent == root
        shutil.copytree(package, site / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    snapshot.freeze(tmp_path / "run" / "code", [site / "ecm_cluster", site / "mmdet_ext"], [])
    for file in site.rglob("*.py"):
        file.write_text("raise RuntimeError('edited while the job waits')\n")
    code = "import ecm_cluster.freeze.snapshot, ecm_cluster.freeze.weights as w, mmdet_ext; print(w.__file__)"
    assert python(tmp_path / "run/code", code, tmp_path) == f"{tmp_path}/run/code/ecm_cluster/freeze/weights.py"
    with pytest.raises(subprocess.CalledProcessError):
        python(site, code, tmp_path)


def test_the_users_modules_are_imported_from_the_copy(checkout: Path, tmp_path: Path) -> None:
    freeze(checkout, tmp_path / "code")
    (checkout / "mine/heads/box.py").write_text("LAYERS = broken\n")
    code = "import tools, heads, ecm_cluster.node.task as t; print(tools.__file__, heads.LAYERS, t.VALUE)"
    assert python(tmp_path / "code", code, tmp_path) == f"{tmp_path}/code/user/tools.py 4 1"


def test_the_python_path_does_not_depend_on_what_is_there_yet(tmp_path: Path) -> None:
    assert snapshot.python_path(tmp_path / "code") == [f"{tmp_path}/code", f"{tmp_path}/code/user"]


# -- digests


def test_the_digest_depends_on_paths_and_contents_alone(checkout: Path, tmp_path: Path) -> None:
    first = freeze(checkout, tmp_path / "1")
    moved = tmp_path / "moved"
    shutil.copytree(checkout, moved)
    for file in moved.rglob("*.py"):
        os.utime(file, (1, 1))
    assert freeze(moved, tmp_path / "2")["digest"] == first["digest"]
    (moved / "mmdet_ext/loss.py").write_text("KIND = 'ecm '\n")
    edited = freeze(moved, tmp_path / "3")
    (moved / "mmdet_ext/loss.py").rename(moved / "mmdet_ext/losses.py")
    renamed = freeze(moved, tmp_path / "4")
    assert len({first["digest"], edited["digest"], renamed["digest"]}) == 3


def test_a_tree_on_disk_has_the_digest_on_record_until_it_is_edited(checkout: Path, tmp_path: Path) -> None:
    manifest = freeze(checkout, tmp_path / "code")
    assert snapshot.digest(tmp_path / "code") == manifest["digest"]
    compiled = tmp_path / "code/mmdet_ext/__pycache__/loss.cpython-311.pyc"
    compiled.parent.mkdir()
    compiled.write_bytes(b"made by an attempt")
    assert snapshot.digest(tmp_path / "code") == manifest["digest"]
    (tmp_path / "code/mmdet_ext/loss.py").write_text("KIND = 'other'\n")
    assert snapshot.digest(tmp_path / "code") != manifest["digest"]


# -- whole or not at all


def test_a_copy_that_is_killed_leaves_no_code_folder(checkout: Path, tmp_path: Path) -> None:
    code = ("import sys; from pathlib import Path; from ecm_cluster.freeze import snapshot\n"
            "snapshot.freeze(Path(sys.argv[1]), [Path(sys.argv[2])], [])")
    target, package = tmp_path / "run" / "code", checkout / "mmdet_ext"
    env = {**os.environ, "ECM_CLUSTER_KILL_AT": "before-rename"}
    done = subprocess.run([sys.executable, "-c", code, str(target), str(package)], env=env)
    assert done.returncode == -9 and not target.exists()
    assert [".tmp-" in p.name for p in target.parent.iterdir()] == [True]
    assert snapshot.freeze(target, [package], [])["files"] == 2


def test_a_folder_that_exists_is_replaced_on_request_alone(checkout: Path, tmp_path: Path) -> None:
    target = tmp_path / "run" / "code"
    freeze(checkout, target)
    before = names(target)
    with pytest.raises(FileExistsError):
        freeze(checkout, target)
    assert names(target) == before
    manifest = snapshot.freeze(target, [checkout / "mmdet_ext"], [], replace=True)
    assert names(target.parent) == {"code/mmdet_ext/__init__.py", "code/mmdet_ext/loss.py"}
    assert snapshot.digest(target) == manifest["digest"]


def test_a_config_that_is_gone_is_named_and_nothing_is_left(checkout: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gone.py: cannot be read"):
        snapshot.freeze(tmp_path / "run/code", packages(checkout), [checkout / "gone.py"])
    assert list((tmp_path / "run").iterdir()) == []


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """As a user whom file modes stop; root is not."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("name", ["heads/box.py", "heads"])
def test_what_cannot_be_read_is_named_and_nothing_is_left(checkout: Path, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is closed to other users
        os.chmod(folder, 0o777)
        mine = Path(folder) / "mine"
        shutil.copytree(checkout / "mine", mine)
        (mine / name).chmod(0)
        with without_privileges(), pytest.raises(UserError) as caught:
            snapshot.freeze(Path(folder) / "run" / "code", [], [], mine)
        (mine / name).chmod(0o700)
        assert f"{mine / name}: cannot be read (Permission denied)" in str(caught.value)
        assert names(Path(folder)) == {f"mine/{n}" for n in names(mine)}


# -- the user's folder


def test_links_are_followed_but_not_in_circles(checkout: Path, tmp_path: Path) -> None:
    mine, shared = checkout / "mine", tmp_path / "shared"
    shared.mkdir()
    (shared / "ops.py").write_text("OPS = 1\n")
    (shared / "back").symlink_to(mine / "heads")
    (mine / "heads/shared").symlink_to(shared)
    (mine / "heads/self").symlink_to(".")
    (mine / "linked.py").symlink_to(shared / "ops.py")
    (mine / "nowhere.py").symlink_to(tmp_path / "gone.py")
    (mine / "round.py").symlink_to("round.py")
    manifest = snapshot.freeze(tmp_path / "code", [], [], mine)
    assert names(tmp_path / "code/user") == {
        "heads/__init__.py", "heads/box.py", "heads/shared/ops.py", "linked.py", "tools.py"}
    assert not any(p.is_symlink() for p in (tmp_path / "code").rglob("*"))
    assert [text.split(": ")[0].rpartition("mine/")[2] for text in manifest["left_out"]] == [
        "heads/self", "heads/shared/back", "nowhere.py", "round.py"]


def test_data_other_runs_and_environments_are_left_out_and_named(checkout: Path, tmp_path: Path) -> None:
    mine, coco = checkout / "mine", tmp_path / "coco"
    for name in ("runs/old/code/ecm_cluster/__init__.py", "runs/old/train.py", "fork/mmdet_ext/__init__.py",
                 "env/pyvenv.cfg", "env/lib/torch.py", "runs/new/notes.py"):
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_text("")
    coco.mkdir()
    (coco / "1.jpg").write_text("")
    (mine / "data").symlink_to(coco)
    os.mkfifo(mine / "pipe")
    for name in ("r50.pth", "ops.cpython-311-x86_64-linux-gnu.so"):
        with open(mine / name, "wb") as handle:
            handle.truncate(6 << 20)
    manifest = snapshot.freeze(mine / "runs/new/code", packages(checkout), [], mine)
    assert names(mine / "runs/new/code/user") == {
        "heads/__init__.py", "heads/box.py", "tools.py", "ops.cpython-311-x86_64-linux-gnu.so"}
    assert manifest["user"]["modules"] == ["heads", "ops", "tools"]
    assert [text.rpartition("mine/")[2] for text in manifest["left_out"]] == [
        "data: a link to a directory without modules", "env: a virtual environment",
        "fork: another run or checkout", "pipe: neither a file nor a directory", "r50.pth: 6 MB, and not a module",
        "runs/new: the run itself", "runs/old: another run or checkout"]


@pytest.mark.parametrize("name", ["ecm_cluster/x.py", "mmdet_ext.py"])
def test_modules_named_like_ours_are_refused(checkout: Path, tmp_path: Path, name: str) -> None:
    (checkout / "mine" / name).parent.mkdir(exist_ok=True)
    (checkout / "mine" / name).write_text("")
    with pytest.raises(UserError, match=f"holds {name.split('/')[0]}, which would hide"):
        freeze(checkout, tmp_path / "run/code")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_hold_modules_is_refused_with_the_remedy(checkout: Path, tmp_path: Path) -> None:
    for given, remedy in ((checkout / "gone", "expected the one that contains your modules"),
                          (checkout / "mine/tools.py", "expected the one that contains your modules"),
                          (checkout / "mine/heads", "use its parent directory")):
        with pytest.raises(UserError, match=f"--code {given}: is .*{remedy}"):
            snapshot.freeze(tmp_path / "run/code", [], [], given)
    assert not (tmp_path / "run").exists()


def test_a_folder_with_far_too_much_in_it_is_refused(checkout: Path, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    with open(checkout / "mine/huge.so", "wb") as handle:
        handle.truncate(selection.MAX_BYTES + 1)  # takes no room on the disk
    with pytest.raises(UserError, match="more than 5000 files or 200 MB; use a folder"):
        freeze(checkout, tmp_path / "run/code")
    (checkout / "mine/huge.so").unlink()
    monkeypatch.setattr(selection, "MAX_FILES", 7)  # 5 of the packages and 3 of the user's
    with pytest.raises(UserError, match="more than 7 files"):
        freeze(checkout, tmp_path / "run/code")
    assert not (tmp_path / "run").exists()


def test_modules_that_hide_pythons_own_are_on_record(checkout: Path, tmp_path: Path) -> None:
    (checkout / "mine/profile.py").write_text("")
    (checkout / "mine/queue").mkdir()
    (checkout / "mine/queue/__init__.py").write_text("")
    (checkout / "mine/test").mkdir()
    (checkout / "mine/test/one.py").write_text("")  # without __init__.py Python prefers its own
    user = freeze(checkout, tmp_path / "code")["user"]
    assert user["hide"] == ["profile", "queue"]
    assert user["modules"] == ["heads", "profile", "queue", "test", "tools"]


# -- what git says


def run_git(folder: Path, *arguments: str) -> str:
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull,
           **{f"GIT_{who}_{what}": "x@example.org"
              for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}}
    return subprocess.run(["git", *arguments], cwd=folder, env=env, check=True, capture_output=True,
                          text=True).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_commit_and_changes_of_a_checkout_are_on_record(checkout: Path, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(checkout / "mine/.git")
    assert freeze(checkout, tmp_path / "0")["packages"]["mmdet_ext"]["commit"] is None
    run_git(checkout, "init", "-q")
    assert git.state(checkout, ["mmdet_ext"]) == {"commit": None, "dirty": True}
    (checkout / ".gitignore").write_text("__pycache__\nenv\n")
    run_git(checkout, "add", ".")
    run_git(checkout, "commit", "-qm", "one")
    commit = run_git(checkout, "rev-parse", "HEAD")
    (checkout / "configs/ecm/r50.py").write_text("# edited\n")
    monkeypatch.setenv("GIT_DIR", str(tmp_path))  # as within a git hook
    manifest = freeze(checkout, tmp_path / "1")
    assert manifest["packages"]["ecm_cluster"] == {
        "from": str(checkout / "ecm_cluster"), "commit": commit, "dirty": False}
    assert (manifest["user"]["commit"], manifest["user"]["dirty"]) == (commit, False)
    (checkout / "mmdet_ext/new.py").write_text("")
    manifest = freeze(checkout, tmp_path / "2")
    assert manifest["packages"]["mmdet_ext"]["dirty"] and not manifest["user"]["dirty"]
    shutil.copytree(checkout / "mmdet_ext", checkout / "env" / "mmdet_ext")
    assert git.state(checkout / "env", ["mmdet_ext"]) == {"commit": None, "dirty": None}


def test_without_git_nothing_is_said_and_nothing_fails(checkout: Path, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    manifest = freeze(checkout, tmp_path / "code")
    assert manifest["user"]["commit"] is None and manifest["user"]["dirty"] is None
