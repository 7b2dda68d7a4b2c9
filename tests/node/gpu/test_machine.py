"""The machine of an attempt is on record; the packages only where they have changed since the submission."""

from __future__ import annotations

import json
import platform
from pathlib import Path

from attempts.ledgers import attempt, spec

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
