"""The verb: its page, its JSON, its exit codes, and what it says without Slurm."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from answers import Answers

from ecm_cluster import doctor
from ecm_cluster.base.errors import UserError

STATES = {"ok", "warning", "fails", "not asked"}


@pytest.fixture
def ask(tmp_path, monkeypatch, capsys):
    """The doctor's exit code and findings by id, of a job whose interpreter is quick."""
    monkeypatch.setenv("ECM_CLUSTER_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("ECM_CLUSTER_ANNOTATIONS", str(tmp_path / "annotations"))
    monkeypatch.chdir(tmp_path)

    def call(*words: object, python: str = "/bin/false") -> tuple[int, dict]:
        code = doctor.main([str(word) for word in (*words, "--python", python, "--json")])
        said = json.loads(capsys.readouterr().out)
        return code, {one["id"]: one for one in said["findings"]}

    return call


def test_without_slurm_it_says_so_and_checks_the_rest(ask, tmp_path, monkeypatch):
    Answers(tmp_path, monkeypatch)
    code, found = ask()
    assert code == 0
    assert found["slurm.controller"]["state"] == "not asked"
    assert found["slurm.controller"]["text"] == "Slurm is not reachable: no sbatch in PATH"
    assert {name.partition(".")[0] for name in found} == {"slurm", "environment", "job", "folder", "quota", "node"}
    assert {one["state"] for one in found.values()} <= STATES
    assert not (tmp_path / "runs").exists()


def test_on_one_machine_slurm_is_not_asked(ask):
    code, found = ask("--cluster", "local", "--scratch", Path("here").absolute())
    assert code == 0 and found["slurm.controller"]["text"] == "--cluster local runs without Slurm"
    assert found["folder.scratch"]["state"] == "ok"


def test_what_fails_makes_exit_code_1_and_the_page_has_its_remedy_below_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert doctor.main(["demo", "--cluster", "local", "--python", "/bin/false"]) == 1
    lines = capsys.readouterr().out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("  fails     data: "))
    assert "            -> give --data-root" in lines[at:at + 4]
    assert lines[-1].endswith("not asked") and "1 fails" in lines[-1]


def test_a_config_that_cannot_be_read_is_a_finding(ask, tmp_path):
    (tmp_path / "job.yaml").write_text('config: demo.py\noptions: {data: "x"}\n')
    code, found = ask("--cluster", "local", tmp_path / "job.yaml")
    assert code == 1 and found["job.config"]["state"] == "fails" and "data" in found["job.config"]["text"]
    (tmp_path / "own.py").write_text("model = dict(\n")
    code, found = ask("--cluster", "local", "--config", tmp_path / "own.py")
    assert code == 1 and found["job.config"]["state"] == "fails"


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="nodes: "):
        doctor.main(["--nodes", "0"])
    with pytest.raises(SystemExit) as ended:
        doctor.main(["--nod", "1"])
    assert ended.value.code == 2


@pytest.mark.slow
def test_this_machine_takes_the_place_of_a_node(ask, tmp_path):
    fake = tmp_path / "fake"
    (fake / "torch").mkdir(parents=True)
    (fake / "torch" / "__init__.py").write_text("raise ImportError('no torch here')\n")
    job = tmp_path / "job.yaml"
    job.write_text(json.dumps({"config": "demo.py", "device": "cpu", "env": {"PYTHONPATH": str(fake)},
                               "setup": ["export FROM_SETUP=1"], "evaluation": {"enabled": False}}))
    code, found = ask(job, "--cluster", "local", "--node", "--scratch", tmp_path / "scratch", python=sys.executable)
    assert code == 1
    states = {name: one["state"] for name, one in found.items() if name.startswith("node.")}
    assert states["node.folder.runs"] == states["node.scratch"] == states["node.python"] == "ok"
    assert states["node.import"] == "fails" and "no torch here" in found["node.import"]["text"]
    assert not (tmp_path / "runs").exists()
    job.write_text(json.dumps({"config": "demo.py", "device": "cpu", "setup": ["echo no such module; false"]}))
    code, found = ask(job, "--cluster", "local", "--node", python=sys.executable)
    assert code == 1 and "a line of setup failed with code 1" in found["node.job"]["text"]
