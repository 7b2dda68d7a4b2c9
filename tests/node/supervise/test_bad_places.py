"""Workers and supervisors where the place fails: logs that take nothing, records that are damaged, no home."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small import ROOT, job_flags, logs_of, wait_until
from users import environment, home_of, needs_root, run_as, shared_folder

from ecm_cluster.base import files
from ecm_cluster.node.supervise import decision, postmortem
from ecm_cluster.rundir.run import Run

ALONE = 61003  # of whom no other test runs anything at the same time
ENDING = """
import logging, sys, warnings
from ecm_cluster.node.supervise import local_driver as local
from ecm_cluster.node.training import logs
from ecm_cluster.node import rank_process
logs.make_output_lossy()
if sys.argv[1] == "closed":
    sys.stdout.close()
else:
    print("caf\\u00e9 \\ud800", flush=True)
    print("x" * 100000)
    warnings.warn("said on stderr")
    logging.error("there as well")
local.say("caf\\u00e9")
rank_process.end(75)
"""


@pytest.mark.parametrize("log", ["/dev/full", pytest.param("closed", marks=pytest.mark.slow),
                                 pytest.param("none", marks=pytest.mark.slow)])
def test_a_worker_ends_with_its_own_code_no_matter_what_its_log_takes(log):
    """75 says that all ranks have committed; anything else would count as a failure."""
    line = f"exec {sys.executable} -c '{ENDING}' {log} {'>&- 2>&-' if log == 'none' else '> /dev/full 2>&1'}"
    env = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    assert subprocess.run(["bash", "-c", line], cwd=ROOT, env=env, check=False).returncode == 75


@pytest.mark.parametrize("text", ["", "{", "[]", '[["rank", 1]]', '{"rank": "x"}', '"stopped"', "[" * 3000, "\xff"])
def test_an_abort_that_is_damaged_still_ends_the_ranks(tmp_path, text):
    run = Run(tmp_path / "run")
    run.attempts_dir.mkdir(parents=True)
    assert postmortem.read_abort(run, 1) is None
    run.abort_file(1).write_bytes(text.encode("latin-1"))
    assert postmortem.read_abort(run, 1) == {}
    files.write_json(run.abort_file(1), {"rank": 0, "cause": "preempted", "stopped": True})
    found = postmortem.read_abort(run, 1)
    assert found is not None and found["stopped"] is True


@pytest.mark.parametrize("invalid", [[], {}, {"action": "jump", "cause": "x"}, {"action": "stay"}, "again", None])
def test_an_invalid_decision_is_waited_out(tmp_path: Path, invalid, capsys):
    path = tmp_path / "decision.json"
    files.write_json(path, invalid)
    assert decision.read(path, 0.0001) is None
    files.write_json(path, {"action": "stay", "cause": "preempted"})
    assert decision.read(path, 5.0) == {"action": "stay", "cause": "preempted"}


def listening(uid: int) -> set[str]:
    """Addresses at which processes of a user listen, as /proc/net has them."""
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    return {line[1].split(":")[0] for line in lines if line[3] == "0A" and int(line[7]) == uid}


@pytest.mark.slow
@needs_root
def test_a_user_without_a_name_a_home_and_a_locale_trains_and_nobody_else_is_listened_to(small_data, tmp_path):
    """As in a container that knows user ids alone; the folder that the command was typed in goes meanwhile."""
    shared = shared_folder()
    shutil.copytree(small_data, shared / "data")
    home = home_of(ALONE, shared)
    (home / "here").mkdir(mode=0o777)
    (home / "here").chmod(0o777)
    env = environment(home, LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0", OMP_NUM_THREADS="1")
    del env["HOME"]
    run = Run(home / "runs" / "run")
    flags = [*job_flags(shared / "data", run.path.parent, "run", runner__max_epochs=4), "--gpus", "2"]
    done = run_as(ALONE, sys.executable, "-m", "ecm_cluster.submit", *flags, "--cluster", "local", env=env,
                  cwd=home / "here")
    assert done.returncode == 0, done.stderr
    (home / "here").rmdir()
    sockets: set[str] = set()

    def is_over() -> bool:
        sockets.update(listening(ALONE))
        return not [path for path in Path("/proc").glob("[0-9]*") if is_of(path, ALONE)]

    wait_until(is_over, "the run ends", 300, lambda: logs_of(run))
    assert run.completion(), logs_of(run)
    assert sockets == {"0100007F"}
    assert sorted(run.evaluations_dir.glob("*/metrics*.json")), logs_of(run)


def is_of(process: Path, uid: int) -> bool:
    try:
        return process.stat().st_uid == uid
    except OSError:
        return False
