"""The machine of an attempt is on record; the packages only where they have changed since the submission."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest
from attempts.ledgers import attempt, spec
from processes.gpu_node import GpuNode, build_driver

from ecm_cluster.freeze import environment
from ecm_cluster.node.gpu import machine
from ecm_cluster.rundir.run import Run


def test_an_attempt_names_its_machine_and_what_has_changed(tmp_path: Path) -> None:
    run = spec(Run(tmp_path / "run"), device="cpu")
    run.environment_file.write_text(json.dumps(environment.record()))
    for number in (1, 2):
        attempt(run, number, 100.0)
        machine.put_on_record(run, run, number, "train")
        run.environment_file.write_text(json.dumps({"digest": "another"}))
    first, _ = (event for event in run.events() if event.kind == "machine")
    assert first["kernel"] == platform.release() and first["gpus"] == [] and first["environment"] and first["cpu"]
    assert not run.environment_of(1).exists()
    assert json.loads(run.environment_of(2).read_text())["distributions"]
    assert run.attempts() == [1, 2], "it is no attempt's file"


@pytest.mark.slow
def test_its_gpus_are_those_that_the_driver_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = GpuNode(tmp_path, monkeypatch, build_driver(tmp_path / "driver"))
    node(uuids="AB", version=12080)
    found = machine.look("cuda")
    assert (found["gpus"], found["cuda"]) == (["NVIDIA Test"] * 2, "12.8")
    node(init=999)
    assert machine.look("cuda")["gpus"] == [], "a driver that fails names none"
