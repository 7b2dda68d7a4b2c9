"""``make setup``: CUDA's compiler is found and really used, and what was built is on record."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small import ROOT

from ecm_cluster.plan import operators
from ecm_cluster.plan.operators import Operators
from tools.environment import __main__ as environment
from tools.environment import basics, cuda, mmcv_full
from tools.environment.basics import STACKS, SetupError

CUDA12, CUDA13 = STACKS["cuda12"], STACKS["cuda13"]
NVCC = """#!/bin/sh
case $1 in
    --version) echo "Cuda compilation tools, release {release}, V{release}.93" ;;
    --list-gpu-code) printf 'sm_%s\\ncompute_%s\\n' {pairs} ;;
    --dryrun) echo '#$ TOP={top}/bin/..' ;;
esac
"""
KNOWN = ("75", "80", "90", "100", "120")
needs_311 = pytest.mark.skipif(sys.version_info < (3, 11), reason="these stacks need Python 3.11")


@pytest.fixture(autouse=True)
def bare(tmp_path, monkeypatch):
    """A shell that has no CUDA of its own: the folder in which tests put toolkits."""
    for name in ("CUDA_HOME", "CUDA_PATH", "FORCE_CUDA", "TORCH_CUDA_ARCH_LIST", "CPATH", "MAX_JOBS"):
        monkeypatch.setenv(name, "")  # so that it is undone, regardless of what the code under test sets
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(cuda, "USUAL_PLACE", tmp_path / "usual")
    monkeypatch.setattr(mmcv_full, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(mmcv_full, "WHEELS", tmp_path / "wheels")


def toolkit(folder: Path, release: str, known=KNOWN) -> Path:
    """A folder with what is asked of a toolkit: headers, and an nvcc that answers questions and compiles nothing."""
    (folder / "include").mkdir(parents=True)
    (folder / "include" / "cuda_runtime.h").touch()
    return nvcc(folder, release, folder, known).parent.parent


def nvcc(folder: Path, release: str, top: Path, known=KNOWN) -> Path:
    path = folder / "bin" / "nvcc"
    path.parent.mkdir(parents=True)
    path.write_text(NVCC.format(release=release, top=top, pairs=" ".join(f"{n} {n}" for n in known)))
    path.chmod(0o755)
    return path


# ------------------------------------------------------------------------------------------ finding the compiler


@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH", "ECM_CLUSTER_CUDA_HOME"])
def test_nvcc_is_found_where_a_variable_says(tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, str(toolkit(tmp_path / "a", "12.8")))
    assert cuda.find(CUDA12) == cuda.Search(cuda.Toolkit(tmp_path / "a", "12.8"))


def test_nvcc_is_found_in_path_as_module_load_leaves_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{toolkit(tmp_path / 'a', '12.4')}/bin:/usr/bin:/bin")
    assert cuda.find(CUDA12).toolkit == cuda.Toolkit(tmp_path / "a", "12.4")


def test_nvcc_is_found_in_the_usual_place(tmp_path):
    toolkit(tmp_path / "usual", "13.0")
    assert cuda.find(CUDA13).toolkit == cuda.Toolkit(tmp_path / "usual", "13.0")


def test_a_script_in_path_leads_to_the_toolkit_that_it_calls(tmp_path, monkeypatch):
    real = toolkit(tmp_path / "cuda-12.8", "12.8")
    nvcc(tmp_path / "local", "12.8", top=real)
    monkeypatch.setenv("PATH", f"{tmp_path}/local/bin:/usr/bin:/bin")
    assert cuda.find(CUDA12).toolkit == cuda.Toolkit(real, "12.8")


def test_the_named_toolkit_beats_those_of_the_shell(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "shell", "12.8")))
    monkeypatch.setenv("ECM_CLUSTER_CUDA_HOME", str(toolkit(tmp_path / "named", "12.4")))
    assert cuda.find(CUDA12).toolkit == cuda.Toolkit(tmp_path / "named", "12.4")


def test_a_toolkit_that_fits_is_taken_where_another_one_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "a", "13.0")))
    monkeypatch.setenv("PATH", f"{toolkit(tmp_path / 'b', '12.8')}/bin:/usr/bin:/bin")
    assert cuda.find(CUDA12).toolkit == cuda.Toolkit(tmp_path / "b", "12.8")


def test_a_named_folder_without_nvcc_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("ECM_CLUSTER_CUDA_HOME", str(tmp_path))
    with pytest.raises(SetupError, match=r"ECM_CLUSTER_CUDA_HOME: no working bin/nvcc in .*needs CUDA 12\.8"):
        cuda.find(CUDA12)


def test_a_named_toolkit_of_another_major_release_is_refused_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("ECM_CLUSTER_CUDA_HOME", str(toolkit(tmp_path / "a", "13.0")))
    with pytest.raises(SetupError, match=r"is CUDA 13\.0, and torch 2\.8\.0 needs CUDA 12\.8; `module load cuda/12\.8"):
        cuda.find(CUDA12)


def test_an_nvcc_of_another_major_release_in_the_shell_is_reported_and_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "a", "13.0")))
    found = cuda.find(CUDA12)
    assert found.toolkit is None
    assert found.trouble == f"torch 2.8.0 needs CUDA 12.8, and there is only CUDA 13.0 in {tmp_path}/a"


def test_without_nvcc_the_reason_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "gone"))
    assert cuda.find(CUDA12) == cuda.Search(None, "torch 2.8.0 needs CUDA 12.8, and there is no nvcc here")


def test_where_cuda_is_forced_no_nvcc_is_an_error(monkeypatch):
    monkeypatch.setenv("FORCE_CUDA", "1")
    with pytest.raises(SetupError, match=r"FORCE_CUDA=1: .* no nvcc here; `module load cuda/12\.8`.*ECM_CLUSTER_STACK"):
        cuda.find(CUDA12)


def test_where_cuda_is_not_wanted_a_toolkit_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "a", "12.8")))
    monkeypatch.setenv("FORCE_CUDA", "0")
    assert cuda.find(CUDA12).toolkit is None


# ------------------------------------------------------------------------------------------ from the package index


def test_nvcc_of_the_package_index_is_of_the_release_of_torchs_cuda(monkeypatch):
    monkeypatch.setenv("ECM_CLUSTER_NVCC", "index")
    found = cuda.find(CUDA13).toolkit
    assert found.release == CUDA13.cuda == "13.0"
    assert basics.CACHE in found.home.parents


def test_for_cuda_12_the_index_has_no_nvcc_and_the_line_says_what_to_do(monkeypatch):
    monkeypatch.setenv("ECM_CLUSTER_NVCC", "index")
    with pytest.raises(SetupError, match=r"no nvcc for CUDA 12\.8.*module load cuda/12\.8.*ECM_CLUSTER_STACK=cuda13"):
        cuda.find(CUDA12)


@needs_311
@pytest.mark.parametrize(("variable", "value", "words"), [
    ("ECM_CLUSTER_NVCC", "yes", "invalid ECM_CLUSTER_NVCC: yes; expected index"),
    ("ECM_CLUSTER_STACK", "cuda11", "invalid ECM_CLUSTER_STACK: cuda11; expected cuda12, cuda13, original")])
def test_a_wrong_choice_is_one_line_before_anything_is_installed(tmp_path, variable, value, words):
    done = run_setup(tmp_path, {variable: value})
    assert done.returncode and done.stderr.startswith(f"setup: {words}") and done.stderr.count("\n") == 1


@needs_311
def test_another_stack_stays_until_one_is_named(tmp_path):
    """With the stamp of cuda13 there, the index has an nvcc: nothing is refused until the machine is looked at."""
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / operators.STAMP).write_text('{"stack": "cuda13"}')
    refused = "ECM_CLUSTER_NVCC=index: the package index has no nvcc for CUDA 12.8"
    wheelhouse = {"ECM_CLUSTER_NVCC": "index", "ECM_CLUSTER_WHEELHOUSE": str(tmp_path / "none")}
    assert "ECM_CLUSTER_WHEELHOUSE" in run_setup(tmp_path, wheelhouse).stderr
    assert refused in run_setup(tmp_path, {**wheelhouse, "ECM_CLUSTER_STACK": "cuda12"}).stderr


def test_the_original_stack_wants_its_own_python_and_has_a_folder_of_its_own(tmp_path):
    said = run_setup(tmp_path, {"ECM_CLUSTER_STACK": "original", "ECM_CLUSTER_PYTHON38": "no-such-python"}).stderr
    assert said.startswith("setup: Python 3.8 is needed and no-such-python is not it; ") and said.count("\n") == 1
    assert "pyenv install 3.8" in said and said.endswith("name it in ECM_CLUSTER_PYTHON38\n")
    assert STACKS["original"].folder.name == ".venv-original" and CUDA12.folder == basics.VENV


def run_setup(checkout: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """tools/setup in a copy of what it needs."""
    for name in ("tools", "ecm_cluster"):
        shutil.copytree(ROOT / name, checkout / name, dirs_exist_ok=True,
                        ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout)
    env = {"PATH": os.environ["PATH"], "ECM_CLUSTER_PYTHON": sys.executable, "XDG_CACHE_HOME": str(checkout / "cache")}
    return subprocess.run([checkout / "tools" / "setup"], env={**env, **variables}, capture_output=True, text=True)


# ------------------------------------------------------------------------------------------ architectures


TORCHS = "sm_70 sm_75 sm_80 sm_90 sm_100 sm_120"


def test_the_default_list_is_torchs_own_as_far_as_nvcc_knows_it(tmp_path):
    found = cuda.at(toolkit(tmp_path / "a", "13.0") / "bin" / "nvcc")
    assert cuda.architectures(TORCHS, found) == "7.5;8.0;9.0;10.0;12.0+PTX"


def test_an_nvcc_that_lists_nothing_gets_torchs_whole_list(tmp_path):
    found = cuda.at(toolkit(tmp_path / "a", "13.0", known=()) / "bin" / "nvcc")
    assert cuda.architectures(TORCHS, found) == "7.0;7.5;8.0;9.0;10.0;12.0+PTX"


@pytest.mark.slow
def test_the_users_list_comes_first_and_what_nvcc_does_not_know_is_refused(tmp_path, monkeypatch):
    found = cuda.at(toolkit(tmp_path / "a", "12.8", known=("80", "90")) / "bin" / "nvcc")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.0 9.0+PTX")
    assert cuda.architectures(TORCHS, found) == "7.0 9.0+PTX"
    with pytest.raises(SetupError, match="TORCH_CUDA_ARCH_LIST: nvcc 12.8 does not compile for sm_70; it knows sm_80"):
        mmcv_full.plan(found)


@pytest.mark.slow
def test_a_list_that_torch_does_not_understand_is_refused(tmp_path, monkeypatch):
    found = cuda.at(toolkit(tmp_path / "a", "12.8") / "bin" / "nvcc")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "H100")
    with pytest.raises(SetupError, match=r"TORCH_CUDA_ARCH_LIST: torch refuses H100 \(ValueError: Unknown CUDA arch"):
        mmcv_full.plan(found)


@pytest.mark.slow
def test_torchs_own_build_tools_work_without_a_gpu_and_use_the_toolkit_that_was_found(tmp_path, monkeypatch):
    """The plain environment is where a build on a login node ended before."""
    code = ("import torch.utils.cpp_extension as c; print(c._join_cuda_home('bin', 'nvcc'));"
            "print(*c._get_cuda_arch_flags())")
    shell = {**os.environ, "FORCE_CUDA": "1", "CUDA_VISIBLE_DEVICES": "", "CUDA_HOME": str(tmp_path)}
    plain = subprocess.run([sys.executable, "-c", code], env=shell, capture_output=True, text=True)
    assert plain.stderr.strip().endswith("IndexError: list index out of range")

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    wanted, env = mmcv_full.plan(cuda.at(toolkit(tmp_path / "a", "12.8") / "bin" / "nvcc"))
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    used, flags = done.stdout.splitlines()
    assert used == f"{tmp_path}/a/bin/nvcc"
    for name in wanted.architectures:
        assert f",code={name}" in flags
    assert wanted.architectures[-2:] == ("compute_120", "sm_120") and "sm_90" in wanted.architectures
    assert env["FORCE_CUDA"] == "1" and f"{tmp_path}/a/bin" in env["PATH"].split(":")


# ------------------------------------------------------------------------------------------ wheels and what they hold


def wanted(**values) -> Operators:
    return Operators(**{"mmcv": "1.7.2", "torch": "2.8.0+cu128", "torch_cuda": "12.8", "cuda": "12.8",
                        "architectures": ("sm_90",), **values})


def wheel(folder: Path, record: Operators | None) -> Path:
    path = folder / f"mmcv_full-1.7.2-{basics.TAG}-{basics.TAG}-linux_x86_64.whl"
    folder.mkdir(parents=True)
    path.touch()
    if record:
        (folder / mmcv_full.RECORD).write_text(json.dumps(record.as_dict()))
    return path


@pytest.mark.parametrize(("built", "fits"), [
    ({"architectures": ("sm_80", "sm_90", "compute_90")}, True),
    ({"architectures": ("sm_80",)}, False),
    ({"architectures": None}, False),
    ({"cuda": None, "architectures": None}, False)])
def test_a_wheel_serves_the_gpus_that_it_was_built_for(tmp_path, built, fits):
    path = wheel(tmp_path / "wheels" / f"mmcv-1.7.2-torch-2.8.0+cu128-{basics.TAG}-cu128", wanted(**built))
    assert mmcv_full.known_wheels() == [path]
    assert mmcv_full.fits(path, wanted()) is fits
    assert mmcv_full.fits(path, wanted(cuda=None, architectures=None)), "every one serves the CPU"
    assert not mmcv_full.fits(path, wanted(torch="2.9.0+cu128"))


def test_wheels_for_other_gpus_are_beside_each_other(tmp_path):
    names = {mmcv_full.folder_name(wanted(architectures=names))
             for names in (("sm_80",), ("sm_90",), ("sm_90", "compute_90"), ("sm_80", "sm_90"))}
    assert len(names) == 4 and all(mmcv_full.fits(wheel(tmp_path / name, wanted()), wanted()) for name in names)
    assert f"mmcv-1.7.2-torch-2.8.0+cu128-{basics.TAG}-cu128-sm90ptx" in names


def test_a_wheel_of_the_wheelhouse_needs_no_record(tmp_path, monkeypatch):
    monkeypatch.setenv("ECM_CLUSTER_WHEELHOUSE", str(tmp_path / "house"))
    path = wheel(tmp_path / "house" / f"torch-2.8.0-{basics.TAG}-cu128", None)
    assert mmcv_full.fits(path, wanted()) and not mmcv_full.fits(path, wanted(torch="2.9.0+cu128"))
    (path.parent / mmcv_full.RECORD).write_text(json.dumps(wanted(architectures=("sm_80",)).as_dict()))
    assert not mmcv_full.fits(path, wanted())


def test_a_wheel_of_this_users_cache_without_a_record_may_be_for_any_gpu(tmp_path):
    path = wheel(tmp_path / "wheels" / f"mmcv-1.7.2-torch-2.8.0+cu128-{basics.TAG}-cu128", None)
    assert not mmcv_full.fits(path, wanted())


# ------------------------------------------------------------------------------------------ the record


def test_an_environment_says_what_its_operators_are_for(tmp_path):
    stamp = tmp_path / operators.STAMP
    python = str(tmp_path / "bin" / "python")
    assert operators.of_interpreter(python) is None
    for record, said in [
            (wanted(architectures=("sm_80", "compute_90", "sm_90")),
             "1.7.2: operators for CUDA 12.8 (sm_80, sm_90, PTX 90)"),
            (wanted(architectures=None), "1.7.2: operators for CUDA 12.8 (architectures unknown)"),
            (wanted(cuda=None, architectures=None), "1.7.2: operators for the CPU only")]:
        stamp.write_text(json.dumps({"operators": record.as_dict()}))
        assert operators.of_interpreter(python) == record
        assert record.describe() == said


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"operators": null}', '{"operators": {"mmcv": "1.7.2"}}',
                                  '{"inputs": "of an earlier version", "cuda": true}'])
def test_an_environment_without_a_sound_record_says_nothing(tmp_path, text):
    (tmp_path / operators.STAMP).write_text(text)
    assert operators.of_interpreter(str(tmp_path / "bin" / "python")) is None


@pytest.fixture
def made(tmp_path, monkeypatch):
    """An environment that was made: a function that says whether it is current after another one of its settings."""
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setattr(environment, "STAMP", venv / operators.STAMP)
    monkeypatch.setattr(environment, "PYTHON", venv / "bin" / "python")

    def write(record: Operators, asked: str | None = None) -> None:
        monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
        environment.write_stamp({"stack": CUDA12.name, "inputs": environment.inputs_digest(CUDA12),
                                 "operators": record.as_dict(), "asked": asked})
    return write


def test_an_environment_for_the_cpu_is_made_again_once_a_toolkit_is_there(made):
    made(wanted(cuda=None, architectures=None))
    assert environment.current(CUDA12, None)
    assert not environment.current(CUDA12, cuda.Toolkit(Path("any"), "12.8"))
    assert not environment.current(CUDA13, None), "other pins"


@pytest.mark.parametrize(("given", "stays"), [(None, True), ("9.0", True), ("8.0", False), ("", False)])
def test_an_environment_keeps_its_gpus_until_others_are_named(made, monkeypatch, given, stays):
    made(wanted(), asked="9.0")
    if given is not None:
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", given)
    environment.keep_architectures(CUDA12)
    assert os.environ["TORCH_CUDA_ARCH_LIST"] == ("9.0" if given is None else given)
    assert bool(environment.current(CUDA12, cuda.Toolkit(Path("any"), "12.8"))) is stays
    assert environment.current(CUDA12, None), "a shell without nvcc"


def test_another_stack_does_not_inherit_the_gpus(made):
    made(wanted(), asked="7.0")
    environment.keep_architectures(CUDA13)
    assert "TORCH_CUDA_ARCH_LIST" not in os.environ


def test_an_environment_made_again_without_nvcc_keeps_operators_for_cuda(tmp_path):
    made = wanted(architectures=("sm_90",))
    cpu = wheel(tmp_path / "wheels" / mmcv_full.folder_name(wanted(cuda=None)), wanted(cuda=None, architectures=None))
    gpu = wheel(tmp_path / "wheels" / mmcv_full.folder_name(made), made)
    assert mmcv_full.known_wheels() == [gpu, cpu]


def test_what_was_built_is_said_at_the_end_and_for_the_cpu_what_gpus_need(capsys):
    environment.report(wanted(architectures=("sm_80", "sm_90")), "", CUDA12)
    assert capsys.readouterr().err == "setup: mmcv-full 1.7.2: operators for CUDA 12.8 (sm_80, sm_90)\n"
    environment.report(wanted(cuda=None, architectures=None), "torch 2.8.0 needs CUDA 12.8, and there is no nvcc here",
                       CUDA12)
    said = capsys.readouterr().err
    assert said.startswith("setup: mmcv-full 1.7.2: operators for the CPU only (torch 2.8.0 needs CUDA 12.8, and")
    assert "setup: for a job on GPUs: `module load cuda/12.8` or set ECM_CLUSTER_CUDA_HOME" in said
