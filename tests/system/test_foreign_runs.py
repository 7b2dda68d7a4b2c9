"""Runs of another user: data to be shown, never acted on."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from answers import Answers
from former_version import complete
from steering import ended_run
from users import ATTACKER, VICTIM, acting_as, given_to, needs_root, shared_folder

from ecm_cluster import cancel, clean, compare, evaluate, resume, status
from ecm_cluster.base import files
from ecm_cluster.base.errors import UserError
from ecm_cluster.chain import chain, evaluations
from ecm_cluster.console import cli
from ecm_cluster.rundir.run import Run
from ecm_cluster.slurm import queue


def call(verb: Any, *argv: object) -> int:
    return cli.run(verb.main, [str(a) for a in argv])


def bare(folder: Path, uid: int) -> Run:
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    return Run(given_to(uid, folder))


@pytest.fixture(scope="module", autouse=True)
def _all_is_imported(tmp_path_factory) -> None:
    """Else it would be read from the interpreter's folder with another user's rights."""
    run = complete(tmp_path_factory.mktemp("whole"))
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        for verb, *words in ((status, "--runs-dir", run.path.parent), (status, run.path), (compare, run.path, run.path),
                             (evaluate, run.path), (clean, run.path), (resume, run.path), (cancel, run.path)):
            assert call(verb, *words) == 0, said.getvalue()


@needs_root
def test_a_run_belongs_to_the_owner_of_its_folder_wherever_links_lead(tmp_path):
    shared = shared_folder()
    own, other, planted = (bare(shared / name, uid) for name, uid in
                           (("own", VICTIM), ("other", ATTACKER), ("planted", VICTIM)))
    os.chown(planted.run_file, ATTACKER, ATTACKER)  # in a folder that others may write to
    (shared / "link").symlink_to(other.path)
    os.lchown(shared / "link", VICTIM, VICTIM)
    (shared / "lure").symlink_to(own.path)  # may lead elsewhere in a moment
    os.lchown(shared / "lure", ATTACKER, ATTACKER)
    with acting_as(VICTIM):
        assert own.is_own and not other.is_own and not planted.is_own and not Run(shared / "link").is_own
        assert not Run(shared / "lure").is_own
        assert not Run(shared / "gone").is_own
        own.require_own("resume")
        with pytest.raises(UserError, match=rf"^RUN: {other.path} belongs to uid {ATTACKER}; only its owner can "
                                            "resume it$"):
            other.require_own("resume")
        with pytest.raises(UserError, match="No such file or directory"):
            Run(shared / "gone").require_own("resume")
    assert not own.is_own, "root has runs of its own"
    with pytest.raises(UserError, match=f"uid {VICTIM}"):
        own.require_own("resume")


# ---------------------------------------------------------------------------------------------- in a shared folder

OWN_TOKEN = "ecm-cluster:mine:train:0123456789ab"


def on_slurm(folder: Path, uid: int, **record: Any) -> Run:
    """A run on Slurm whose records name job 7, and an evaluation that waits to be released, submitted and adopted."""
    run = ended_run(folder, "slurm", attempts=1, iterations=(5,), evaluation={"every": 1, "while_training": True})
    files.write_json(run.submission_file("train"), {"token": OWN_TOKEN, "cluster": "slurm", "job_id": "7", **record})
    files.write_json(run.submission_file("evaluate"), {
        "token": "ecm-cluster:mine:evaluate:0123456789ac", "cluster": "slurm", "job_id": "8", "former": [
            {"token": "ecm-cluster:mine:evaluate:0123456789ad", "job_id": None}]})
    evaluations.write(run, "evaluate", [evaluations.Element("iteration 5", {}), evaluations.Element("last", {})])
    chain.note_refusal(run, UserError("QOSMaxSubmitJobPerUserLimit"))
    given_to(uid, run.path)
    return Run(run.path)


@pytest.fixture
def shared(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return shared_folder()


@pytest.fixture
def answers(shared, monkeypatch) -> Answers:
    made = Answers(shared.parent, monkeypatch)
    row = queue.SEPARATOR.join(("7", "RUNNING", "None", "N/A", OWN_TOKEN, "(null)"))
    made(sbatch="99\n", scontrol="ClusterName = alpha\n", sacct=None, squeue=row + "\n", scancel="")
    for path in (made.folder, made.folder / "calls"):
        path.touch() if path != made.folder else None
        path.chmod(0o777)
    return made


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.lstat().st_mtime_ns, p.lstat().st_size) for p in folder.rglob("*")}


@needs_root
def test_status_acts_on_no_job_that_another_users_run_names_and_writes_nothing_to_it(answers, shared, capsys):
    theirs = on_slurm(shared / "theirs", ATTACKER)
    for path in (theirs.path, *theirs.path.rglob("*")):
        path.chmod(0o777)  # an attacker would let the victim write
    before = listing(theirs.path)
    with acting_as(VICTIM):
        assert call(status, "--runs-dir", shared) == 0
        assert "theirs" in capsys.readouterr().out
        assert call(status, theirs.path) == 0 and call(status, theirs.path, "--json") == 0
    asked = {line.split()[0].rpartition("/")[2] for line in answers.calls().splitlines()}
    assert asked <= {"squeue", "sacct"} and "--me" not in answers.calls(), answers.calls()
    assert listing(theirs.path) == before


@pytest.mark.slow
@needs_root
def test_jobs_of_others_are_asked_for_apart_from_the_users_own(answers, shared, capsys):
    on_slurm(shared / "theirs", ATTACKER, job_id="666")
    on_slurm(shared / "mine", VICTIM)
    with acting_as(VICTIM):
        assert call(status, "--runs-dir", shared) == 0
    asked = [line.partition(" -j ")[2].split()[0] for line in answers.calls().splitlines() if "squeue -j" in line]
    assert not [ids for ids in asked if "666" in ids and "7" in ids.split(",")] and any("666" in ids for ids in asked)


@needs_root
def test_a_verb_that_acts_refuses_another_users_run_in_one_line(answers, shared, capsys):
    theirs = on_slurm(shared / "theirs", ATTACKER)
    before = listing(theirs.path)
    for verb, *words in ((resume,), (resume, "--dry-run"), (cancel,), (clean,), (clean, "--dry-run"), (evaluate,),
                         (evaluate, "--dry-run", "--checkpoints", "all")):
        with acting_as(VICTIM):
            assert call(verb, theirs.path, *words) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert f"to uid {ATTACKER}; only its owner can" in err or "is not complete" in err
    assert listing(theirs.path) == before and answers.calls() == ""


@pytest.mark.slow
@needs_root
def test_figures_of_another_users_run_are_shown_and_compared(shared, capsys):
    run = complete(shared)
    given_to(ATTACKER, shared / "runs")
    before = listing(run.path)
    with acting_as(VICTIM):
        assert call(evaluate, run.path, "--checkpoints", "last") == 0
        assert "box AP" in capsys.readouterr().out
        assert call(compare, run.path, f"{run.path}@14") == 0 and call(status, run.path) == 0
    assert listing(run.path) == before


@needs_root
def test_a_run_that_only_its_owner_can_read_has_a_row_that_says_so(shared, capsys):
    on_slurm(shared / "closed", ATTACKER).path.chmod(0o700)
    ended_run(shared / "mine")
    given_to(VICTIM, shared / "mine")
    with acting_as(VICTIM):
        assert call(status, "--runs-dir", shared, "--json") == 0
        rows = {row["run"]: row for row in json.loads(capsys.readouterr().out)}
        assert rows["closed"]["state"] == "unreadable" and f"it belongs to uid {ATTACKER}" in rows["closed"]["reason"]
        assert rows["mine"]["state"] == "failed"
        for verb in (status, resume, cancel, clean, evaluate):
            assert call(verb, shared / "closed") == 2
            err = capsys.readouterr().err
            assert err.count("\n") == 1 and f"uid {ATTACKER}" in err


@pytest.mark.slow
@needs_root
def test_no_matter_what_another_users_run_holds_status_reads_little_of_it(shared, capsys, monkeypatch):
    theirs = on_slurm(shared / "theirs", ATTACKER)
    secret = shared / "secret.json"
    secret.write_text('{"secret": "of the victim"}')
    secret.chmod(0o600)
    os.chown(secret, VICTIM, VICTIM)
    with open(theirs.ledger_dir / "0001-x.jsonl", "w") as handle:
        handle.write('{"kind": "end", "time": 1, "cause": "\\u001b]52;c;x\\u0007\\u001b[2J"}\n')
        handle.write('{"kind": "end", "time": 1, "detail": ' + "[" * 200_000)
    os.mkfifo(theirs.heartbeat_file(1))
    theirs.complete_file(1).symlink_to(secret)
    (theirs.attempts_dir / "999999999.json").write_text('{"accepts": []}')
    (theirs.attempts_dir / ("9" * 200 + ".json")).write_text("{}")
    os.truncate(theirs.ledger_dir / "0001-task000.jsonl", 1 << 40)
    given_to(ATTACKER, theirs.path)
    with acting_as(VICTIM):
        for words in (("--runs-dir", shared), (theirs.path,), (theirs.path, "--json")):
            assert call(status, *words) == 0
            said = "".join(capsys.readouterr())
            assert "of the victim" not in said and "\x1b" not in said
