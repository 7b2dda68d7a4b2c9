"""``from ecm_cluster import submit, Run``: runs as Python objects, with the verbs' own errors."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from small import ROOT, trainer_flags
from steering import SCORED, ended_run

import ecm_cluster
from ecm_cluster import Run, submit
from ecm_cluster.base import files
from ecm_cluster.base.errors import UserError
from ecm_cluster.chain import evaluations
from ecm_cluster.console import cli
from ecm_cluster.rundir import checkpoints


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("ECM_CLUSTER_CHECK", "none")
    monkeypatch.chdir(tmp_path)


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True,
                          capture_output=True, text=True)
    return done.stdout


def test_the_module_of_the_verb_is_a_function_too_and_neither_imports_torch():
    assert callable(submit) and callable(submit.main) and ecm_cluster.submit is submit
    assert submit.parser().prog == "python -m ecm_cluster.submit"
    code = ("import sys; from ecm_cluster import submit, Run; "
            "print(callable(submit), Run.__name__, 'torch' in sys.modules)")
    assert python(code) == "True RunHandle False\n"
    assert python(f"import ecm_cluster.submit; {code}") == "True RunHandle False\n"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ecm_cluster.nothing


def test_a_run_is_found_by_name_or_path_and_what_it_is_not_is_a_user_error(tmp_path):
    ended_run(tmp_path / "runs" / "first", iterations=(10, 20))
    for run in (Run("first"), Run(tmp_path / "runs" / "first"), Run("first", tmp_path / "runs")):
        assert (run.name, run.path, repr(run)) == ("first", tmp_path / "runs/first", f"Run('{tmp_path}/runs/first')")
    with pytest.raises(UserError, match="^RUN: 'second' is neither a run directory nor the name of one"):
        Run("second")


def test_state_scores_and_log_are_values(tmp_path):
    made = ended_run(tmp_path / "runs" / "first", iterations=(10, 20))
    work = evaluations.evaluation_of(made, checkpoints.accepted(made)[1], {})
    work.path.mkdir(parents=True)
    figures = {"segm": {"AP": 0.25, "APr": None}, "bbox": {"AP": 0.5}}
    files.write_json(work.metrics_file(), {**SCORED, "figures": figures})
    made.json_log(1).write_text('{"starts_after": 0, "by_epoch": false, "epoch": 0, "position": 0, '
                                '"iterations_this_epoch": 9, "iterations_per_epoch": 9}\n'
                                '{"mode": "train", "iter": 1, "loss": 2.5}\n')
    run = Run("first")
    assert (run.state().state, run.state().iteration) == ("failed", 20)
    row, = run.scores()
    assert (row["segm_AP"], row["segm_APr"], row["bbox_AP"], row["iteration"]) == (0.25, None, 0.5, 1)
    assert [(line["iteration"], line["loss"]) for line in run.log()] == [(1, 2.5)]


def test_wait_ends_with_the_state_or_with_a_timeout(tmp_path, monkeypatch):
    ended_run(tmp_path / "runs" / "first", iterations=(10, 20))
    run = Run("first")
    with pytest.raises(TimeoutError, match=r"^first is failed after 0\.1 s: rank 0: ValueError: x"):
        run.wait(timeout=0.1, interval=0.05)
    monkeypatch.setattr("ecm_cluster.interface.run.PATIENCE", 0.0)
    assert run.wait().state == "failed"


@pytest.mark.parametrize("keys, why", [
    ({"gpuss": 2}, "^key: 'gpuss' is unknown"),
    ({"gpus": 0}, "^gpus: invalid value 0; expected a whole number"),
    ({"job": "no-such-job"}, "no-such-job"),
    ({"evaluation": {"epoch": "all"}}, "^evaluation: key: 'epoch' is unknown"),
])
def test_an_invalid_key_is_a_user_error_before_anything_is_submitted(tmp_path, keys, why):
    with pytest.raises(UserError, match=why):
        submit(**keys, cluster="local")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_refusal_of_a_verb_is_a_user_error_with_its_words(tmp_path):
    with pytest.raises(UserError, match="^trainer: "):
        submit(trainer="no_such_module:make", cluster="local")
    run = Run(ended_run(tmp_path / "runs" / "first", iterations=(10, 20)).path)
    with pytest.raises(UserError, match="^from: first has no checkpoint of iteration 15; it has 10, 20"):
        run.resume(iteration=15)
    with pytest.raises(UserError, match="^key: 'notify' is unknown"):
        run.resume(notify=[])


@pytest.mark.slow
def test_a_run_is_submitted_cancelled_and_resumed_from_python(tmp_path):
    words = trainer_flags(tmp_path / "runs", "first")
    assert cli.run(submit.main, [*words, "--cluster", "local", "--dry-run"]) == 0  # the verb is as it was
    run = submit(cluster="local", name="first", trainer="tiny_trainer:make", code=str(ROOT / "tests/other_trainer"),
                 device="cpu", cpus_per_gpu=1, mem_per_gpu="1G", env={"WORD": "it's 10 % 😀"},
                 options={"per_epoch": 100, "epochs": 2, "seconds": 0.5})
    assert run.path == tmp_path / "runs" / "first"
    with pytest.raises(TimeoutError):
        run.wait(timeout=1)
    assert run.cancel().wait().state == "stopped"
    with pytest.raises(UserError):
        submit(cluster="local", name="first", trainer="tiny_trainer:make", code=str(ROOT / "tests/other_trainer"))
    assert run.resume(time="2:00:00").state().state == "running"
    run.cancel()


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path):
    script = tmp_path / "python_interface.py"
    shutil.copy(ROOT / "docs/tutorials/python_interface.py", script)
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=400)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "mask AP" in done.stdout and "lowest loss" in done.stdout
