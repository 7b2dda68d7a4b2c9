"""What a run does not need any more is listed; it is deleted, kind by kind, only when the user asks for it."""

from __future__ import annotations

import json
import re

import pytest
from small import state_now, trainer_flags, verb
from steering import SCORED, ended_run

from ecm_cluster import clean, resume
from ecm_cluster.base import files
from ecm_cluster.chain import evaluations
from ecm_cluster.chain.evaluations import Element
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


def test_without_yes_everything_is_listed_with_sizes_and_nothing_is_deleted(capsys, run):
    before = there(run)
    for flags in ((), ("--dry-run",)):
        said = call(capsys, run.path, "--abandoned", *flags)
        for line in ("4 files of checkpoints that `resume --from` left behind, ", "2 checkpoints of stale attempts, ",
                     "2 files of damaged checkpoints, ", "2 leftovers of interrupted writes, 8 bytes: would be deleted",
                     f"nothing was deleted; to delete it: python -m ecm_cluster.clean {run.path} --abandoned --yes\n"):
            assert line in said
        assert there(run) == before
    assert cli.run(clean.main, [str(run.path), "--yes", "--dry-run"]) == 2


def test_without_its_flag_a_kind_stays_and_the_flag_is_shown(capsys, run):
    said = call(capsys, run.path, "--yes")
    assert there(run) == COUNTING | BRANCH
    assert "kept; --abandoned selects them" in said and "kept; --checkpoints selects them" in said


def test_with_abandoned_only_what_counts_stays(capsys, run):
    call(capsys, run.path, "--abandoned", "--yes")
    assert there(run) == COUNTING
    assert [m.file for m in checkpoints.manifests(run)] == sorted(COUNTING)
    call(capsys, run.path, "--all", "--yes")
    assert call(capsys, run.path, "--all") == "run: nothing to clean\n"


def test_of_old_checkpoints_those_stay_that_something_needs(capsys, tmp_path):
    """The last two, the best one, one that is to be scored, and one that another run begins with."""
    run = ended_run(tmp_path / "run", iterations=(10, 20, 30, 40, 50, 60, 70))
    record = files.read_json(run.run_file)
    files.write_json(run.run_file, {**record, "digests": {"config": "c"}})
    run = Run(run.path)
    by_iteration = {m.iteration: m for m in checkpoints.accepted(run)}
    evaluations.write(run, "evaluate", [Element("iteration 20", {})])
    best = evaluations.evaluation_of(run, by_iteration[30], {})
    scored = {**SCORED, "figures": {"segm": {"AP": 0.5}}, "provenance": {"checkpoint": by_iteration[30].file,
                                                                         "iteration": 30}}
    best.path.mkdir(parents=True)
    files.write_json(best.metrics_file(), scored)
    other = ended_run(tmp_path / "other")
    weights = [{"key": "load_from", "path": str(by_iteration[40].path(run))}]
    files.write_json(other.run_file, {**files.read_json(other.run_file), "weights": weights})
    said = call(capsys, run.path, "--checkpoints")
    assert "4 files of old checkpoints, which nothing needs, " in said
    call(capsys, run.path, "--checkpoints", "--yes")
    assert [m.iteration for m in checkpoints.accepted(run)] == [20, 30, 40, 60, 70]
    assert checkpoints.newest_sound(run)[0] == by_iteration[70]
    # an evaluation that is cancelled needs nothing any more
    run.mark_cancelled("cancel")
    call(capsys, run.path, "--checkpoints", "--yes")
    assert [m.iteration for m in checkpoints.accepted(run)] == [30, 40, 60, 70]


def test_detections_go_once_they_are_scored_and_code_once_it_is_replaced(capsys, tmp_path, monkeypatch):
    run = ended_run(tmp_path / "run", iterations=(10, 20))
    files.write_json(run.run_file, {**files.read_json(run.run_file), "digests": {"config": "c"}})
    run = Run(run.path)
    evaluations.write(run, "evaluate", [Element("iteration 10", {})])
    works = [evaluations.evaluation_of(run, m, {}) for m in checkpoints.accepted(run)]
    for work in works:
        work.detections_dir.mkdir(parents=True)
        work.chunk_file(0).write_bytes(b"boxes")
        work.scored_set_file.write_text("{}")
    files.write_json(works[1].metrics_file(), SCORED)
    for name in ("code", "code-2", "code-3"):
        (run.path / name / "ecm_cluster").mkdir(parents=True)
        (run.path / name / "ecm_cluster" / "x.py").write_text("x = 1\n")
    files.write_json(run.overrides_file, {"code": {"number": 2}})
    (run.path / "codebook").mkdir()
    monkeypatch.setattr(clean.liveness, "alive", lambda run: {"7": "local driver 7"})
    assert "code" not in call(capsys, run.path, "--all") + call(capsys, run.path, "--all")
    monkeypatch.undo()
    said = call(capsys, run.path, "--all")
    assert "1 files of detections that are scored, 5 bytes" in said
    assert "2 directories of code that is no longer used, 12 bytes" in said
    call(capsys, run.path, "--all", "--yes")
    assert works[0].chunk_file(0).exists() and not works[1].chunk_file(0).exists()
    assert works[1].scored_set_file.exists()
    assert sorted(p.name for p in run.path.glob("code*")) == ["code-2", "codebook"]


def test_several_runs_and_patterns_are_cleaned_and_added_up(capsys, tmp_path):
    for name in ("exp-1", "exp-2", "other"):
        ended_run(tmp_path / name, iterations=(10, 20, 30, 40))
    said = call(capsys, "exp-*", "--runs-dir", tmp_path, "--checkpoints")
    assert "exp-1: 4 files of old" in said and "exp-2: 4 files of old" in said and "other" not in said
    assert re.search(r"total: .* would be deleted\n", said)
    assert f"clean 'exp-*' --runs-dir {tmp_path} --checkpoints --yes" in said
    call(capsys, "exp-1", "other", "--runs-dir", tmp_path, "--checkpoints", "--yes")
    left = {name: len(checkpoints.accepted(Run(tmp_path / name))) for name in ("exp-1", "exp-2", "other")}
    assert left == {"exp-1": 2, "exp-2": 4, "other": 2}


def test_what_an_attempt_at_work_writes_is_left_alone(capsys, run, monkeypatch):
    monkeypatch.setattr(clean.liveness, "alive", lambda run: {"7": "local driver 7"})
    call(capsys, run.path, "--yes")
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
           f"`python -m ecm_cluster.clean {run.path} --abandoned --yes` deletes them" in said
    assert cli.run(resume.main, [str(run.path), "--dry-run"]) == 0
    assert "abandoned" not in capsys.readouterr().out
    # the frozen code of an earlier version has no branches
    (run.code_dir / "ecm_cluster").mkdir(parents=True)
    assert cli.run(resume.main, [str(run.path), "--from", "20", "--dry-run"]) == 0
    assert "of an earlier version, which deletes them; use --code current to keep them" in capsys.readouterr().out
    assert json.loads(run.attempt_file(1).read_text())["accepts"] == []


@pytest.mark.slow
def test_a_run_in_training_loses_nothing_that_it_needs(capsys, tmp_path):
    run = Run(tmp_path / "run")
    verb("submit", *trainer_flags(tmp_path, "run", "--cluster", "local", "--no-check", "--checkpoint-every", 3,
                                  "--keep", 2, seconds=0.05))
    deleted = 0
    while state_now(run)["state"] in ("submitting", "running"):
        deleted += "old checkpoints" in call(capsys, run.path, "--all", "--yes")
    assert state_now(run)["state"] == "done" and "damaged" not in state_now(run)["reason"]
    assert run.completion() == checkpoints.accepted(run)[-1].file
    assert checkpoints.newest_sound(run)[1] == []
    assert deleted  # the end of the first epoch, which the training itself keeps
