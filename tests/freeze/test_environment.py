"""The record of what is installed: complete, without importing any of it, and without secrets."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from ecm_cluster.base import reading
from ecm_cluster.freeze import environment
from ecm_cluster.rundir import records


def test_it_names_every_distribution_and_what_torch_was_built_with():
    found = environment.record()
    assert reading.fits(found, records.ENVIRONMENT)
    names = {each["name"] for each in found["distributions"]}
    assert names <= {str(d.metadata["Name"]) for d in metadata.distributions()}
    assert {"torch", "mmdet", "numpy"} <= {normal(name) for name in names}
    assert found["torch"]["version"].startswith(metadata.version("torch").partition("+")[0])
    assert found["python"] == ".".join(map(str, sys.version_info[:3])) and found["glibc"]
    assert found["digest"] == environment.record()["digest"]


@pytest.mark.slow
def test_it_is_as_complete_as_pips_list():
    listed = subprocess.run([sys.executable, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
                            stdout=subprocess.PIPE, check=True).stdout
    ours = {normal(each["name"]): each["version"] for each in environment.distributions()}
    assert {normal(each["name"]): each["version"] for each in json.loads(listed)} == ours


def normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def test_torch_is_not_imported_for_it():
    code = "from ecm_cluster.freeze import environment as e; import sys; e.record(); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_copies_that_setuptools_brings_along_are_not_installed(tmp_path, monkeypatch):
    installed(tmp_path / "setuptools/_vendor", "jaraco.context", "5.3")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "setuptools/_vendor")])
    assert environment.distributions() == []


def installed(folder: Path, name: str, version: str, origin: object = None) -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if origin is not None:
        (info / "direct_url.json").write_text(json.dumps(origin))


def test_an_origin_is_recorded_without_its_secrets(tmp_path, monkeypatch):
    installed(tmp_path, "from_git", "1.0", {"url": "https://me:hunter2@git.example/x.git?token=abc",
                                            "vcs_info": {"vcs": "git", "commit_id": "0123abc"}})
    installed(tmp_path, "at_work", "2.0", {"url": "file:///at/work", "dir_info": {"editable": True}})
    installed(tmp_path, "odd", "3.0", ["no", "mapping"])
    (tmp_path / "broken-4.0.dist-info").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    found = {each["name"]: each for each in environment.distributions()}
    assert found["from_git"]["origin"] == {"url": "https://***@git.example/x.git?token=***", "commit": "0123abc"}
    assert found["at_work"]["origin"] == {"url": "file:///at/work", "editable": True}
    assert "origin" not in found["odd"]
    assert environment.torch(environment.distributions()) == {} or "hunter2" not in json.dumps(found)


def test_the_packages_of_a_conda_environment_that_are_not_pythons(tmp_path, monkeypatch):
    (tmp_path / "ecm/conda-meta").mkdir(parents=True)
    for name in ("cudatoolkit-11.7.0-hd8887f6_10.json", "history"):
        (tmp_path / "ecm/conda-meta" / name).write_text("")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "ecm"))
    assert environment.record()["conda"] == {"name": "ecm", "packages": ["cudatoolkit-11.7.0-hd8887f6_10"]}
