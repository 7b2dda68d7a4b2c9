"""Workers and supervisors where the place fails: logs that take nothing, records that are damaged, no home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small import ROOT

from ecm_cluster import files
from ecm_cluster.node import closing, supervisor
from ecm_cluster.run import Run

ENDING = """
import logging, sys, warnings
from ecm_cluster.node import local, logs, train
logs.make_output_losable()
if sys.argv[1] == "closed":
    sys.stdout.close()
else:
    print("caf\\u00e9 \\ud800", flush=True)
    print("x" * 100000)
    warnings.warn("said on stderr")
    logging.error("there as well")
local.say("caf\\u00e9")
train.end(75)
"""


@pytest.mark.parametrize("log", ["/dev/full", *(pytest.param(log, marks=pytest.mark.slow) for log in ("closed", "none"))])
def test_a_worker_ends_with_its_own_code_whatever_its_log_takes(log):
    """75 says that all ranks have committed; anything else would count as a failure."""
    line = f"exec {sys.executable} -c '{ENDING}' {log} {'>&- 2>&-' if log == 'none' else '> /dev/full 2>&1'}"
    env = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    assert subprocess.run(["bash", "-c", line], cwd=ROOT, env=env, check=False).returncode == 75


@pytest.mark.parametrize("text", ["", "{", "[]", '[["rank", 1]]', '{"rank": "x"}', '"stopped"', "[" * 3000, "\xff"])
def test_an_abort_that_is_damaged_still_ends_the_ranks(tmp_path, text):
    run = Run(tmp_path / "run")
    run.attempts_dir.mkdir(parents=True)
    assert closing.read_abort(run, 1) is None
    run.abort_file(1).write_bytes(text.encode("latin-1"))
    assert closing.read_abort(run, 1) == {}
    files.write_json(run.abort_file(1), {"rank": 0, "cause": "preempted", "stopped": True})
    found = closing.read_abort(run, 1)
    assert found is not None and found["stopped"] is True


@pytest.mark.parametrize("decision", [[], {}, {"action": "jump", "cause": "x"}, {"action": "stay"}, "again", None])
def test_a_decision_that_is_none_is_waited_for(tmp_path: Path, decision, capsys):
    path = tmp_path / "decision.json"
    files.write_json(path, decision)
    assert supervisor._await_json(path, 0.0001) is None
    files.write_json(path, {"action": "stay", "cause": "preempted"})
    assert supervisor._await_json(path, 5.0) == {"action": "stay", "cause": "preempted"}
