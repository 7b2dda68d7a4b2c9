"""What is installed for an interpreter, and whether it fits together, without importing any of it here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ecm_cluster.diagnosis import asked, environment, requirements
from ecm_cluster.job import job
from ecm_cluster.plan.operators import Operators

FITTING = {"torch": "2.8.0+cu128", "torchvision": "0.23.0+cu128", "numpy": "2.3.1"}


@pytest.mark.parametrize(("version", "wanted", "holds"), [
    ("2.28.2", ">=2.25,<3", True), ("3.3.0", ">=2.25,<3", False), ("2.8.0+cu128", ">=1.13", True),
    ("1.12.1", ">=1.13", False), ("1.5", ">=1.5,<2", True), ("2.0.0rc1", "<2", False), ("0.5.3", "!=0.5.3", False),
    ("1.3", "==1.3.0", True), ("anything", "", True)])
def test_a_version_is_compared_with_what_is_required(version, wanted, holds):
    assert requirements.satisfies(version, wanted) is holds


@pytest.mark.parametrize(("line", "python", "read"), [
    ("torch>=1.13", "3.11.7", "torch >=1.13"),
    ('hotcoco>=1.3,<1.4; python_version >= "3.10"', "3.9.1", None),
    ('hotcoco>=1.3,<1.4; python_version >= "3.10"', "3.10.2", "hotcoco >=1.3,<1.4"),
    ("PyYAML >=5.4", "3.8.1", "pyyaml >=5.4"),
    ('mmcv_full<1.8,>=1.7; extra == "train"', "3.8.1", "mmcv-full <1.8,>=1.7"),
    ("rich[jupyter] (>=12)", "3.8", "rich >=12")])
def test_a_requirement_is_read_as_setup_cfg_and_as_wheels_have_it(line, python, read):
    found = requirements.read(line, python)
    assert (found and str(found)) == read


def test_the_lines_of_setup_cfg_are_found():
    lines = requirements.lines()
    assert "submitit" in "".join(lines["base"]) and "mmdet" in "".join(lines["train"]) and lines["python"]


def test_a_package_that_is_missing_or_of_another_version_is_a_line_of_its_own_with_the_remedy():
    wanted = requirements.parsed(["torch>=1.13", "mmdet>=2.25,<3", "hotcoco>=1.3", "numpy>=1.23"], "3.11")
    there = {"torch": "1.9", "numpy": "1.26"}
    found = {one.id: one for one in environment.packages("job.packages", wanted, there, "/py")}
    assert {name: one.state for name, one in found.items()} == {
        "job.packages": "ok", "job.packages.torch": "fails", "job.packages.mmdet": "fails",
        "job.packages.hotcoco": "warning"}
    assert found["job.packages.torch"].text == "torch 1.9 is installed for /py, expected torch >=1.13"
    assert found["job.packages.mmdet"].text == "mmdet is not installed for /py, expected mmdet >=2.25,<3"
    assert "make setup" in found["job.packages.mmdet"].remedy


@pytest.mark.parametrize(("there", "compiled", "state"), [
    ({}, None, {"torchvision": "ok"}),
    ({"torchvision": "0.22.0"}, None, {"torchvision": "fails"}),
    ({"torchvision": "0.23.0+cpu"}, None, {"torchvision": "fails"}),
    ({"torch": "1.13.1", "torchvision": "0.14.1", "numpy": "1.23.1"}, None, {"torchvision": "ok"}),
    ({"torch": "2.2.2", "torchvision": "0.17.2"}, None, {"torchvision": "ok", "numpy": "fails"}),
    ({}, "2.8.0+cu128", {"torchvision": "ok", "mmcv": "ok"}),
    ({}, "2.7.1+cu126", {"torchvision": "ok", "mmcv": "fails"})])
def test_packages_that_were_not_made_for_each_other_are_named(there, compiled, state):
    record = compiled and Operators("1.7.2", compiled, "12.8", "12.8", ("sm_90",))
    found = environment.fitting({**FITTING, **there}, record, "job.fit")
    assert {one.id.partition("fit.")[2]: one.state for one in found} == state


def of_job(python: Path | str, seconds: float = 20.0, **values: object) -> dict[str, tuple[str, str]]:
    asks = asked.Asked(job.make({"python": str(python), **values}), "slurm", True)
    started = environment.Interpreter(str(python), {"PATH": "/usr/bin:/bin"}, ("no_such_module_of_torch",))
    return {one.id: (one.state, one.text) for one in environment.of_job(asks, started, seconds)}


@pytest.fixture
def bare(tmp_path):
    """A Python without any package, and one whose packages are what their metadata say."""
    def make(**versions: str) -> Path:
        site = tmp_path / "site"
        for name, version in versions.items():
            folder = site / f"{name}-{version}.dist-info"
            folder.mkdir(parents=True)
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nPYTHONPATH={site} exec {sys.executable} -S "$@"\n')
        python.chmod(0o755)
        return python
    return make


def test_a_python_without_torch_is_named_with_what_it_lacks(bare):
    found = of_job(bare(torchvision="0.23.0", mmdet="3.3.0"))
    assert found["job.python"][0] == "ok"
    assert found["job.packages.torch"][0] == "fails" and "torch is not installed" in found["job.packages.torch"][1]
    assert "mmdet 3.3.0 is installed" in found["job.packages.mmdet"][1]
    assert found["job.import"][0] == "fails"
    assert "cannot import no_such_module_of_torch: ModuleNotFoundError" in found["job.import"][1]


def test_what_this_machine_cannot_know_of_the_jobs_python_is_not_asked(bare, tmp_path):
    assert of_job(tmp_path / "none")["job.python"] == (
        "not asked", f"{tmp_path}/none does not run here (No such file or directory); --node checks a node")
    for more in ({"setup": ["module load torch"]}, {"srun": {"container-image": "/x.sqsh"}}):
        found = of_job(bare(), **more)
        assert list(found) == ["job.python"] and found["job.python"][0] == "not asked"


def test_an_interpreter_that_hangs_is_not_waited_for(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 60\n")
    python.chmod(0o755)
    assert "no answer within 0" in of_job(python, seconds=0.3)["job.python"][1]
