"""What the batch script does about a start, under bash alone: without Python, and without the run directory."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from small import wait_until
from users import ATTACKER, needs_root

from ecm_cluster.attempts import endings, starts
from ecm_cluster.backends import driver, liveness
from ecm_cluster.base import files
from ecm_cluster.chain import chain
from ecm_cluster.job import job
from ecm_cluster.reporting import state
from ecm_cluster.rundir.run import Run
from ecm_cluster.slurm import launcher

SHOWN = "JobId=77 JobState={state} Reason=None Requeue=1 Restarts={restarts} ReqNodeList=(null) ExcNodeList={out} X=1"


class Shell:
    """Runs a run's batch script; srun, scontrol and the Python of the node are scripts that note it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = Run(folder / "it's a run")
        self.run.attempts_dir.mkdir(parents=True)
        self.run.logs_dir.mkdir()
        self.values: dict[str, Any] = {"name": "run", "exclude": "n8,n9", "setup": [],
                                       "python": str(folder / "bin/python")}
        (folder / "bin").mkdir()
        self.tool("srun", "exit 0")
        self.tool("python", "exit 0")
        self.slurm()
        record = {"token": "t", "cluster": "slurm", "job_id": "77"}
        files.write_json(_made(self.run.submission_file("train")), record)

    def tool(self, name: str, body: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> {shlex.quote(str(self.folder))}/calls\n{body}\n')
        path.chmod(0o755)

    def slurm(self, state: str = "RUNNING", restarts: int = 0, out: str = "n8,n9", refuses: str = "nothing") -> None:
        shown = SHOWN.format(state=state, restarts=restarts, out=out)
        self.tool("scontrol", f'case "$*" in {refuses}*) exit 1;; *"show job"*) echo "{shown}";; '
                              f"*hostnames*) echo $3 | tr , '\\n';; esac")

    def start(self, link: str = "train", restart: int = 0, **env: str) -> int:
        record = {"name": "run", "run_id": "ab", "cluster": "slurm", "job": job.make(self.values).as_dict()}
        if self.run.path.exists():
            files.write_json(self.run.run_file, record)
        asked = chain.request(self.run, job.make(self.values), link, "t", elements=1)
        if self.run.path.exists():
            files.write_bytes(_made(self.run.task_pickle(link)), b"")
        script = self.folder / "script.sh"
        script.write_text(launcher.render(asked))
        return subprocess.run(["bash", str(script)], timeout=60, cwd=self.folder, check=False, env={
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}", "SLURM_JOB_ID": "77", "SLURMD_NODENAME": "n1",
            "SLURM_JOB_NODELIST": "n1", "SLURM_RESTART_COUNT": str(restart), **env}).returncode

    def calls(self, *names: str) -> list[str]:
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.startswith(names) and " show " not in line]

    def notes(self, restart: int = 0) -> list[dict[str, Any]]:
        path = self.run.starts_dir / f"77.{restart}.json"
        return [json.loads(line) for line in path.read_text().splitlines()]


def _made(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    return path


@pytest.fixture
def shell(tmp_path) -> Shell:
    return Shell(tmp_path)


MOVED = ["scontrol requeue 77", "scontrol update JobId=77 ExcNodeList=n8,n9,n1"]


def test_each_start_is_on_record_before_srun_and_when_it_ends(shell):
    shell.tool("srun", f"cp -r {shlex.quote(str(shell.run.starts_dir))} {shell.folder}/seen")
    assert shell.start() == 0
    assert len(list(shell.folder.glob("seen/77.0.json"))) == 1
    begin, end, left = shell.notes()
    assert (begin["kind"], begin["host"], begin["nodes"], begin["stage"]) == ("begin", "n1", "n1", "train")
    assert (end["kind"], end["phase"], end["code"]) == ("end", "step", 0)
    assert left["kind"] == "left", "the epilog holds the nodes, too"
    assert shell.calls("python") == [f"python -m ecm_cluster.node.supervise.epilog {shell.run.path} train 0"]


def test_an_element_of_an_array_has_records_of_its_own(shell):
    shell.start(SLURM_ARRAY_JOB_ID="70", SLURM_ARRAY_TASK_ID="3", restart=2)
    assert [path.name for path in shell.run.starts_dir.iterdir()] == ["70_3.2.json"]
    assert (shell.run.submitit_dir / "70_3_0_log.out").exists()


@pytest.mark.parametrize(("setup", "line", "code"), [
    (["true", "module_that_does_not_exist load x", "touch reached"], 2, 127),
    (["load() { true; false; }", "load", "touch reached"], 2, 1),
    (["source {folder}/bad.sh", "touch reached"], 1, 4),
    (["(exit 7)", "touch reached"], 1, 7),
    (["x=$(false)", "touch reached"], 1, 1),
    (["true && exit 3", "touch reached"], 0, 3),
    (["set -eu", "cd /nowhere/at/all", "touch reached"], 2, 1),
])
def test_a_setup_line_that_fails_ends_the_start_and_is_named(shell, setup, line, code):
    (shell.folder / "bad.sh").write_text("return 4\n")
    shell.values["setup"] = [text.replace("{folder}", str(shell.folder)) for text in setup]
    shell.tool("python", "exit 0")
    assert shell.start() == code
    assert not (shell.folder / "reached").exists() and not shell.calls("srun")
    end = next(note for note in shell.notes() if note["kind"] == "end")
    assert (end["phase"], end["code"]) == ("setup", code)
    assert end.get("line", 0) == line
    cause, detail = starts.on_record(shell.run, "77")[0].failure(shell.run)
    assert cause == "setup failed" and detail.endswith(f"with exit code {code}") and detail.startswith("n1: ")
    assert not line or f"setup line {line} `{shell.values['setup'][line - 1]}` failed" in detail
    assert shell.calls("python") == [f"python -m ecm_cluster.node.supervise.epilog {shell.run.path} train none"]


@pytest.mark.parametrize("setup", [
    ["load() { false; true; }", "load"], ["false || true"], ["if false; then", "true", "fi"], ["source {folder}/ok.sh"],
    ["! true"], ["export X=a  # false"], []])
def test_what_fails_within_a_function_or_a_file_that_ends_well_is_not_a_failure(shell, setup):
    (shell.folder / "ok.sh").write_text("false\nfalse\ntrue\n")
    shell.values["setup"] = [text.replace("{folder}", str(shell.folder)) for text in setup]
    assert shell.start() == 0
    assert len(shell.calls("srun")) == 1


def test_a_node_without_python_is_left_out_and_the_job_tried_elsewhere(shell):
    shell.tool("srun", "exit 127")
    shell.tool("python", "exit 127")
    assert shell.start() == 127
    assert shell.calls("scontrol") == MOVED
    assert [note["kind"] for note in shell.notes()] == ["begin", "end", "no-python", "left"]
    assert "restart 0 code 127" in shell.run.batch_log.read_text()


def test_a_python_that_only_tasks_see_is_replaced_by_the_one_that_submitted(shell, monkeypatch):
    shell.tool("own", "exit 0")
    monkeypatch.setattr("sys.executable", str(shell.folder / "bin/own"))
    shell.values.update(python="/opt/in-a-container/python", srun={"container-image": "/images/ecm.sqsh"})
    shell.tool("srun", "exit 1")
    shell.start()
    assert [note["kind"] for note in shell.notes()] == ["begin", "end", "left"]
    assert shell.calls("own") == [f"own -m ecm_cluster.node.supervise.epilog {shell.run.path} train 1"]
    assert not shell.calls("scontrol requeue")


def test_status_names_a_python_that_cannot_run_though_none_has_written_it(shell):
    shell.tool("srun", "exit 127")
    shell.tool("python", "exit 127")
    shell.start()
    end = endings.newest_end(shell.run)
    assert (end["cause"], end["detail"]) == ("start failed", "n1: Python could not run there (exit code 127)")
    found = state.RunState("run", str(shell.run.path), "", "")
    state._unfinished(shell.run, found, liveness.Life(False, "job 77 failed"), None)
    assert found.state == "failed" and "n1: Python could not run there" in found.reason


def test_status_says_of_a_job_that_left_no_record_what_may_be_the_matter_and_names_no_log(shell):
    shell.run.submitit_dir.mkdir()
    (shell.run.submitit_dir / "77_submission.sh").write_text("ecm_start=x")
    files.write_json(shell.run.run_file, {"name": "run", "run_id": "ab", "cluster": "slurm", "job": {"name": "run"}})
    found = state.RunState("run", str(shell.run.path), "", "")
    state._unfinished(shell.run, found, liveness.Life(False, "job 77 failed"), None)
    assert found.state == "failed"
    assert found.reason == ("job 77 failed; its batch script left no record: a node's Prolog failed, or the nodes do "
                            f"not see {shell.run.path}")
    assert found.next == chain.resume_line(shell.run)


def test_status_says_of_a_job_whose_launch_failed_what_may_be_the_matter(shell):
    files.write_json(shell.run.run_file, {"name": "run", "run_id": "ab", "cluster": "slurm", "job": {"name": "run"}})
    found = state.RunState("run", str(shell.run.path), "", "")
    held = liveness.Life(True, "job 77 pending (launch failed requeued held)", waiting=True, held=True)
    state._unfinished(shell.run, found, held, None)
    assert found.reason.endswith("held); a Prolog failed, or slurmd could not start the batch script: ask an "
                                 "administrator")
    assert found.next == "scontrol release 77"


@pytest.mark.parametrize("said", [
    {"state": "COMPLETING"}, {"restarts": 1}, {"out": "n8,n9,n2,n3,n4"}, {"state": "CANCELLED"},
    {"refuses": '"requeue"'}])
def test_a_start_that_is_not_its_jobs_any_more_or_has_used_up_its_nodes_moves_nothing(shell, said):
    shell.tool("srun", "exit 127")
    shell.tool("python", "exit 127")
    shell.slurm(**said)
    shell.start()
    assert not [call for call in shell.calls("scontrol") if "update" in call]


def test_without_python_a_cancelled_run_and_a_step_that_ended_well_are_left_alone(shell):
    shell.tool("python", "exit 127")
    shell.start()
    shell.tool("srun", "exit 1")
    files.write_json(shell.run.cancel_file, {"time": 0})
    shell.start(restart=1)
    assert not shell.calls("scontrol")


def test_where_the_node_cannot_be_left_out_the_job_is_held_and_does_not_come_back_forever(shell):
    shell.tool("srun", "exit 127")
    shell.tool("python", "exit 127")
    shell.slurm(refuses="update")
    shell.start()
    assert shell.calls("scontrol")[-1] == "scontrol hold 77"


@pytest.mark.slow
def test_a_node_that_does_not_see_the_run_directory_is_left_out_and_the_job_tried_elsewhere(shell):
    shell.start()
    hidden = shell.folder / "elsewhere"
    shell.run.path.rename(hidden)
    assert shell.start(restart=0) == 1
    assert shell.calls("scontrol") == MOVED
    assert not shell.run.path.exists(), "nothing is made where the run directory should be"
    shell.slurm(out="n8,n9,n2,n3,n4")
    assert shell.start() == 1
    assert shell.calls("scontrol") == MOVED, "three nodes are the limit"


def test_a_setup_line_fails_alike_on_this_machine(tmp_path):
    run = Run(tmp_path / "run")
    made = job.make({"name": "run", "setup": ["true", "(exit 5)"]})
    files.write_json(_made(run.run_file), {"name": "run", "run_id": "ab", "cluster": "local", "job": made.as_dict()})
    pid = driver.start(run, made)
    files.write_json(_made(run.submission_file("train")), {"token": "t", "cluster": "local", "job_id": pid})
    wait_until(lambda: endings.newest_end(run), "the start is on record", 20)
    found = state.fold_one(run, None)
    assert found.state == "failed"
    assert found.reason.startswith("setup failed: ")
    assert "setup line 2 `(exit 5)` failed with exit code 5" in found.reason


@needs_root
def test_nothing_is_run_of_a_folder_that_belongs_to_another_user(shell, capfd):
    """A user who can rename the run's parent folder can replace it by a folder of their own."""
    shell.run.path.chmod(0o777)
    os.chown(shell.run.path, ATTACKER, ATTACKER)
    shell.values["setup"] = ["touch reached"]
    assert shell.start() == 1
    assert f"{shell.run.path} belongs to another user; nothing in it is run" in capfd.readouterr().err
    assert not shell.calls("srun", "python")
    assert not (shell.folder / "reached").exists()
    assert not [path for path in shell.run.path.iterdir() if path.name.startswith("tmp.")]
    # a file server that calls root nobody
    shell.tool("mktemp", f'/usr/bin/mktemp "$@" | {{ read -r made; chown {ATTACKER} "$made"; echo "$made"; }}')
    assert shell.start(restart=1) == 0
    assert (shell.folder / "reached").exists()
