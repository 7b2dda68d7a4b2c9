"""What an installed copy is: light on a login node, with ranges that old and new environments meet."""

from __future__ import annotations

import configparser
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tools.environment.basics import STACKS

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / "tools" / "environment" / "pins"
# the environment in which such detectors were trained before
ORIGINAL = {"torch": "1.13.1", "torchvision": "0.14.1", "mmdet": "2.25.2", "mmcv-full": "1.7.0", "numpy": "1.23.1"}


@pytest.fixture(scope="module")
def options() -> configparser.ConfigParser:
    parsed = configparser.ConfigParser()
    parsed.read(ROOT / "setup.cfg")
    return parsed


def requirements(text: str, python: str = "3.11") -> dict[str, Requirement]:
    """Those of a list that are meant for this Python."""
    lines = [re.split(r"(?:^|\s)#", line)[0].strip() for line in text.splitlines()]
    found = map(Requirement, filter(None, lines))
    return {canonicalize_name(r.name): r for r in found
            if r.marker is None or r.marker.evaluate({"python_version": python})}


each_stack = pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)
ASKED = {"cuda12": ["requirements.in"], "cuda13": ["requirements.in", "cuda13.in"], "original": ["original.in"]}


def pins(lock: Path) -> dict[str, Version]:
    found = requirements(lock.read_text())
    return {name: Version(str(r.specifier).lstrip("=")) for name, r in found.items()}


def test_the_base_install_of_a_login_node_has_neither_torch_nor_numpy(options) -> None:
    base = requirements(options["options"]["install_requires"])
    assert set(base) == {"submitit", "pyyaml", "rich", "xxhash"}


def test_old_pythons_get_a_submitit_that_starts_on_them(options) -> None:
    """Below Python 3.10, 1.5.4 ends with a KeyError in every job; 1.5.3 imports pkg_resources."""
    base = requirements(options["options"]["install_requires"], "3.9")
    assert not base["submitit"].specifier.contains("1.5.4") and base["submitit"].specifier.contains("1.5.3")
    assert not base["setuptools"].specifier.contains("81.0.0")


def test_the_stack_of_the_original_work_is_the_one_in_which_it_was_done() -> None:
    pinned = {**pins(STACKS["original"].lock), "mmcv-full": Version(STACKS["original"].mmcv)}
    assert {name: str(pinned[name]) for name in ORIGINAL} == ORIGINAL


@pytest.mark.parametrize(("name", "version"), [
    ("mmdet", "3.0.0"), ("mmdet", "2.24.1"), ("mmcv-full", "1.6.2"), ("mmcv-full", "2.0.0")])
def test_ranges_refuse_what_the_code_cannot_work_with(options, name: str, version: str) -> None:
    train = requirements(options["options.extras_require"]["train"])
    assert not train[name].specifier.contains(version)


@each_stack
def test_every_pinned_version_is_in_the_range_that_the_package_declares(options, stack) -> None:
    python = "3.8" if stack.name == "original" else "3.11"
    declared = requirements(options["options"]["install_requires"], python)
    for extra in options["options.extras_require"].values():
        declared.update(requirements(extra, python))
    if stack.name == "original":
        for tool in ("ruff", "mypy", "types-pyyaml", "vermin"):  # they look at the source, which is the same everywhere
            del declared[tool]
    pinned = {**pins(stack.lock), "mmcv-full": Version(stack.mmcv)}
    wrong = [name for name, r in declared.items()
             if name not in pinned or not r.specifier.contains(pinned[name])]
    assert wrong == []


@each_stack
def test_the_lock_holds_exactly_one_opencv_and_what_was_asked_for_by_name(stack) -> None:
    pinned = pins(stack.lock)
    assert [name for name in pinned if name.startswith("opencv")] == ["opencv-python-headless"]
    asked: dict[str, Requirement] = {}
    for name in ASKED[stack.name]:
        asked.update(requirements((ENVIRONMENT / name).read_text()))
    assert [name for name, r in asked.items() if not r.specifier.contains(pinned[name])] == []


def test_nvcc_of_the_package_index_and_torch_are_of_one_cuda_release() -> None:
    nvcc, torch = pins(ENVIRONMENT / "cuda13-nvcc.txt"), pins(STACKS["cuda13"].lock)
    releases = {(nvcc[name].major, nvcc[name].minor) for name in nvcc}
    runtime = torch["nvidia-cuda-runtime"]
    assert releases == {(runtime.major, runtime.minor)}


def test_torch_and_torchvision_are_of_one_release() -> None:
    """The lock of cuda13 is made with overrides, which would also admit two that do not belong together."""
    for stack in STACKS.values():
        pinned = pins(stack.lock)
        apart = 15 if pinned["torch"].major == 2 else 1
        assert pinned["torchvision"].minor == pinned["torch"].minor + apart, stack


def test_the_environment_is_the_one_that_is_pinned() -> None:
    """Runs in the environment that ``make setup`` made; a package changed by hand shows up here."""
    def installed(name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    stamp = Path(sys.prefix) / "ecm-cluster.json"
    stack = json.loads(stamp.read_text()).get("stack", "cuda12") if stamp.exists() else "cuda12"
    lock = STACKS[stack].lock
    changed = {name: installed(name) for name, pin in pins(lock).items() if installed(name) != str(pin)}
    assert changed == {}, f"`make setup` brings back what tools/environment/pins/{lock.name} pins"


def test_pyproject_names_the_build_system_alone() -> None:
    tables = re.findall(r"^\[.*\]", (ROOT / "pyproject.toml").read_text(), re.M)
    assert tables == ["[build-system]"]


# -- a wheel, installed with only the base requirements


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that the checkout gets no build folder and no file that git ignores gets in."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("ecm_cluster", "mmdet_ext", "configs", "jobs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
        "-w", str(out), str(source))
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def light(wheel: Path, tmp_path_factory) -> Path:
    """bin/ of a fresh environment with the wheel and what it requires, copied from the environment here."""
    folder = tmp_path_factory.mktemp("light") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    run(sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet",
        "--no-deps", "--no-index", str(wheel))
    (own,) = importlib.metadata.distributions(name="ecm-cluster", path=[str(site)])
    for name in closure(own.requires or []):
        copy_distribution(name, site)
    return folder / "bin"


def closure(required: list[str]) -> set[str]:
    """Names of all distributions that a base install of these requirements brings along."""
    found: set[str] = set()
    left = [Requirement(text) for text in required]
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and name not in found:
            found.add(name)
            left += map(Requirement, importlib.metadata.requires(name) or [])
    return found


def copy_distribution(name: str, site: Path) -> None:
    for file in importlib.metadata.files(name) or []:
        if ".." not in file.parts and "__pycache__" not in file.parts:
            target = site / str(file)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(file.locate()), target)


def run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def verbs() -> list[str]:
    from ecm_cluster.__main__ import VERBS

    return list(VERBS)


@pytest.mark.slow
def test_a_wheel_answers_for_every_verb_with_the_base_requirements_alone(light: Path, tmp_path: Path) -> None:
    python = str(light / "python")
    absent = subprocess.run([python, "-c", "import torch"], capture_output=True, cwd=tmp_path)
    assert absent.returncode, "torch is in the light environment: the test shows nothing"
    overview = run(str(light / "ecm-cluster"), "--help", cwd=tmp_path)
    for verb in verbs():
        assert verb in overview
        assert run(python, "-m", f"ecm_cluster.{verb}", "--help", cwd=tmp_path).startswith("usage:")


@pytest.mark.slow
def test_a_wheel_brings_every_config_and_every_job_file(light: Path) -> None:
    share = light.parent / "share" / "ecm-cluster"
    here = {path.relative_to(ROOT) for top in ("configs", "jobs") for path in (ROOT / top).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts}
    there = {path.relative_to(share) for path in share.rglob("*")
             if path.is_file() and "__pycache__" not in path.parts}
    assert here == there, "name the folder under [options.data_files] in setup.cfg"


@pytest.mark.slow
def test_a_wheel_brings_the_data_files_of_the_packages(light: Path) -> None:
    (site,) = (light.parent / "lib").glob("python*/site-packages")
    here = {path.relative_to(ROOT) for top in ("ecm_cluster", "mmdet_ext") for path in (ROOT / top).rglob("*")
            if path.is_file() and path.suffix != ".pyc"}
    there = {path.relative_to(site) for top in ("ecm_cluster", "mmdet_ext") for path in (site / top).rglob("*")}
    assert not here - there, "name the file under [options.package_data] in setup.cfg"


@pytest.mark.slow
def test_an_import_path_given_first_wins_over_the_installed_checkout(tmp_path: Path) -> None:
    """Runs import the code that was frozen into them, regardless of what the checkout has become since."""
    frozen = tmp_path / "ecm_cluster"
    frozen.mkdir()
    (frozen / "__init__.py").write_text("__version__ = 'frozen'\n")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import ecm_cluster; print(ecm_cluster.__version__)"
    assert run(sys.executable, "-c", code, str(tmp_path), cwd=tmp_path).strip() == "frozen"
