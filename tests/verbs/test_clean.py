"""What a run does not need any more is listed and deleted; an abandoned branch only when the user asks for it."""

from __future__ import annotations

import json

import pytest
from steering import ended_run

from ecm_cluster import clean, resume
from ecm_cluster.base import files
from ecm_cluster.chain import evaluations
from ecm_cluster.console import cli
from ecm_cluster.rundir import checkpoints, retention
from ecm_cluster.rundir.run import Run


@pytest.fixture
def run(tmp_path) -> Run:
    """Attempt 1 came to iteration 40; attempt 2 resumed from 20, and attempt 1's writer came late."""
    made = ended_run(tmp_path / "run", iterations=(10, 20, 30, 40))
    record = files.read_json(made.run_file)
    files.write_json(made.run_file, {**record, "digests": {"config": "c"}})
    made = Run(made.path)
    _, accepts, _ = checkpoints.choose(made, 20)
    files.write_json(made.attempt_file(2), {"number": 2, "host": "elsewhere", "accepts": [m.file for m in accepts],
                                            "abandoned": retention.abandoned_after(made, 20)})
    commit(made, 1, 50)
    commit(made, 2, 30)
    checkpoints.quarantine(made, commit(made, 2, 35))
    for number in (1, 2):
        (made.checkpoints_dir / f".iter_0000060-a000{number}.pth{files.TMP_MARK}1-ab").write_bytes(b"half")
    return made


def commit(run: Run, attempt: int, iteration: int) -> checkpoints.Manifest:
    return checkpoints.commit(run, attempt, lambda f: f.write(b"weights"), iteration=iteration, epoch=0,
                              position=iteration, epoch_end=False)


def call(capsys, *argv: object) -> str:
    assert cli.run(clean.main, [str(a) for a in argv]) == 0
    return capsys.readouterr().out


def there(run: Run) -> set[str]:
    return {p.name for p in run.checkpoints_dir.rglob("*") if p.is_file() and p.suffix != ".json"}


COUNTING = {"iter_0000010-a0001.pth", "iter_0000020-a0001.pth", "iter_0000030-a0002.pth"}
BRANCH = {"iter_0000030-a0001.pth", "iter_0000040-a0001.pth"}


def test_a_dry_run_lists_everything_with_sizes_and_deletes_nothing(capsys, run):
    before = there(run)
    said = call(capsys, run.path, "--dry-run", "--abandoned")
    for line in ("4 checkpoints of a branch abandoned by `resume --from`, ", "2 checkpoints of stale attempts, ",
                 "2 files of damaged checkpoints, ", "2 leftovers of interrupted writes, 8 bytes: would be deleted"):
        assert line in said
    assert there(run) == before


def test_without_abandoned_the_branch_stays_and_the_command_that_deletes_it_is_shown(capsys, run):
    said = call(capsys, run.path)
    assert there(run) == COUNTING | BRANCH
    assert f"to delete the branch: python -m ecm_cluster.clean {run.path} --abandoned" in said


def test_with_abandoned_only_what_counts_stays(capsys, run):
    call(capsys, run.path, "--abandoned")
    assert there(run) == COUNTING
    assert [m.file for m in checkpoints.manifests(run)] == sorted(COUNTING)
    assert call(capsys, run.path, "--abandoned") == "run: nothing to clean\n"


def test_what_an_attempt_at_work_writes_is_left_alone(capsys, run, monkeypatch):
    monkeypatch.setattr(clean.liveness, "alive", lambda run: {"7": "local driver 7"})
    call(capsys, run.path)
    assert f".iter_0000060-a0002.pth{files.TMP_MARK}1-ab" in there(run)
    assert f".iter_0000060-a0001.pth{files.TMP_MARK}1-ab" not in there(run)


def test_an_iteration_and_an_epoch_mean_the_branch_that_counts(run):
    ends = [checkpoints.commit(run, attempt, lambda f: f.write(b"w"), iteration=60, epoch=3, position=0, epoch_end=True)
            for attempt in (1, 2)]
    record = files.read_json(run.attempt_file(2))
    files.write_json(run.attempt_file(2), {**record, "abandoned": [*record["abandoned"], ends[0].file]})
    assert evaluations.resolve(run, "epoch 3") == ends[1]
    assert evaluations.resolve(run, "iteration 30").attempt == 2
    retention.prune(run, 2, keep=2)
    assert ends[0] in checkpoints.manifests(run)


def test_the_plan_of_a_resume_says_what_stays_and_how_to_delete_it(capsys, tmp_path):
    run = ended_run(tmp_path / "run", iterations=(10, 20, 30, 40))
    assert cli.run(resume.main, [str(run.path), "--from", "20", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "2 checkpoint(s) of iteration 30 to 40 (14 bytes) stay on disk and no longer count; " \
           f"`python -m ecm_cluster.clean {run.path} --abandoned` deletes them" in said
    assert cli.run(resume.main, [str(run.path), "--dry-run"]) == 0
    assert "abandoned" not in capsys.readouterr().out
    # the frozen code of an earlier version has no branches
    (run.code_dir / "ecm_cluster").mkdir(parents=True)
    assert cli.run(resume.main, [str(run.path), "--from", "20", "--dry-run"]) == 0
    assert "of an earlier version, which deletes them; use --code current to keep them" in capsys.readouterr().out
    assert json.loads(run.attempt_file(1).read_text())["accepts"] == []
