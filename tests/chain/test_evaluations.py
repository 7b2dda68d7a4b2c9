"""What is scored of a run: elements, the checkpoints that they mean, where results are, what is still needed."""

from __future__ import annotations

import os

import pytest
from steering import SCORED, ended_run

from ecm_cluster.base import files
from ecm_cluster.base.errors import UserError
from ecm_cluster.chain import chain, evaluations, requested
from ecm_cluster.chain.evaluations import LAST, Element
from ecm_cluster.job.evaluation_options import EvaluationOptions
from ecm_cluster.rundir import checkpoints
from ecm_cluster.rundir.run import Run

EPOCHS = {"runner": {"type": "EpochBasedRunner", "max_epochs": 4}, "model": {"test_cfg": {"rcnn": {"score_thr": 0.1}}}}
ITERATIONS = {"runner": {"type": "IterBasedRunner", "max_iters": 100}, "model": {}}


def planned(cfg: dict, **block: object) -> list[Element]:
    return requested.planned(EvaluationOptions(**block), cfg)


def places(cfg: dict, **block: object) -> list[str]:
    return [element.at for element in planned(cfg, **block)]


def commit(run: Run, attempt: int, iteration: int, epoch: int, epoch_end: bool = False) -> checkpoints.Manifest:
    return checkpoints.commit(run, attempt, lambda f: f.write(b"weights %d" % iteration), iteration=iteration,
                              epoch=epoch, position=0, epoch_end=epoch_end)


def complete(run: Run, manifest: checkpoints.Manifest) -> None:
    files.write_json(run.complete_file(manifest.attempt), {"attempt": manifest.attempt,
                                                           **checkpoints.describe(manifest)})


@pytest.fixture
def run(tmp_path) -> Run:
    """Attempt 1 has the ends of two epochs and a checkpoint between."""
    made = ended_run(tmp_path / "run")
    record = files.read_json(made.run_file)
    files.write_json(made.run_file, {**record, "digests": {"config": "c", "val_annotations": "a"}})
    made = Run(made.path)
    for iteration, epoch, at_end in ((10, 1, True), (15, 1, False), (20, 2, True)):
        commit(made, 1, iteration, epoch, at_end)
    return made


def test_the_last_checkpoint_is_scored_unless_more_is_asked_for():
    assert places(EPOCHS) == [LAST]
    assert places(EPOCHS, enabled=False) == []
    assert places(EPOCHS, epochs="all") == ["epoch 1", "epoch 2", "epoch 3", LAST]
    assert places(EPOCHS, epochs=[2, 4]) == ["epoch 2", LAST]
    assert places(EPOCHS, every=2) == ["epoch 2", LAST]
    assert places(ITERATIONS, every=40) == ["iteration 40", "iteration 80", LAST]


def test_an_epoch_is_found_behind_the_step_in_which_it_ended_even_if_another_ended_there_too(run):
    # 14 iterations an epoch, 32 a step: the first step holds the ends of two epochs, the second those of three to four
    for iteration, epoch, position in ((32, 2, 4), (64, 4, 8)):
        checkpoints.commit(run, 1, lambda f: f.write(b"x"), iteration=iteration, epoch=epoch, position=position,
                           epoch_end=True, step=32)
    counting = [m for m in checkpoints.accepted(run) if m.step == 32]
    found = {n: evaluations.resolve(run, f"epoch {n}", counting) for n in range(1, 6)}
    assert {n: m and m.iteration for n, m in found.items()} == {1: 32, 2: 32, 3: 64, 4: 64, 5: None}
    alone = [m for m in checkpoints.accepted(run) if m.step == 1]
    assert evaluations.resolve(run, "epoch 1", alone[1:]) is None, "the end of the second is not that of the first"


def test_an_epoch_that_the_training_has_not_is_refused():
    with pytest.raises(UserError, match="evaluation.epochs: invalid 5; expected epochs from 1 to 4"):
        places(EPOCHS, epochs=[5])
    with pytest.raises(UserError, match="evaluation.epochs: the config counts iterations"):
        places(ITERATIONS, epochs="all")


def test_combinations_that_differ_in_scoring_alone_share_an_element():
    found = planned(EPOCHS, settings={"score_thr": [0.1, 0.2], "max_dets": [300, 100]})
    assert [(e.settings, e.scoring) for e in found] == [({}, ({}, {"max_dets": 100})),
                                                        ({"score_thr": 0.2}, ({}, {"max_dets": 100}))]


def test_elements_are_read_back_as_they_were_written(run):
    elements = planned(EPOCHS, epochs="all", settings={"score_thr": [0.2], "max_dets": [1, 2]})
    evaluations.write(run, "evaluate", elements)
    assert evaluations.read(run, "evaluate") == elements
    assert evaluations.read(run, "sweep001") == [Element(LAST, {})]


def test_a_place_means_the_checkpoint_that_counts(run):
    assert evaluations.resolve(run, "epoch 1").iteration == 10
    assert evaluations.resolve(run, "iteration 15").iteration == 15
    assert evaluations.resolve(run, "epoch 3") is None
    assert evaluations.resolve(run, LAST) is None, "the training is not complete"
    complete(run, commit(run, 1, 30, 3, True))
    assert evaluations.resolve(run, LAST).iteration == 30


def test_one_checkpoint_under_one_set_of_settings_has_one_place(run):
    by_epoch, by_iteration = (evaluations.of_element(run, Element(at, {})) for at in ("epoch 2", "iteration 20"))
    assert by_epoch.path == by_iteration.path
    assert evaluations.of_element(run, Element("epoch 2", {"flip": True})).path != by_epoch.path
    assert evaluations.of_element(run, Element("epoch 2", {}, ({"max_dets": 1},))).path == by_epoch.path
    assert evaluations.of_element(run, Element("epoch 1", {})).path != by_epoch.path


def test_an_element_is_done_when_it_is_scored_in_every_way(run):
    element = Element("epoch 1", {}, ({}, {"max_dets": 1}))
    work = evaluations.of_element(run, element)
    work.path.mkdir(parents=True)
    files.write_json(work.metrics_file(), SCORED)
    assert not evaluations.done(run, element)
    files.write_json(work.metrics_file(evaluations.scoring_variant({"max_dets": 1})), SCORED)
    assert evaluations.done(run, element)
    assert len(work.all_metrics()) == 2


def test_detections_are_there_when_every_chunk_is(run):
    work = evaluations.of_element(run, Element("epoch 1", {}))
    assert not evaluations.has_detections(work)
    work.detections_dir.mkdir(parents=True)
    files.write_json(work.chunks_file, {"chunks": 2, "images": 5})
    work.chunk_file(0).touch()
    assert not evaluations.has_detections(work)
    work.chunk_file(1).touch()
    assert evaluations.has_detections(work)


def test_a_checkpoint_is_kept_as_long_as_an_evaluation_needs_it(run):
    elements = [Element("iteration 15", {}), Element("iteration 15", {"flip": True})]
    evaluations.write(run, "evaluate", elements)
    kept = evaluations.resolve(run, "iteration 15").file
    assert evaluations.awaited(run) == {kept}
    for element in elements:
        work = evaluations.of_element(run, element)
        work.path.mkdir(parents=True)
        assert evaluations.awaited(run) == {kept}
        files.write_json(work.metrics_file(), SCORED)
    assert evaluations.awaited(run) == set()
    assert evaluations.iterations_wanted(run) == {15}


def test_checkpoints_are_named_as_the_command_line_has_them(run):
    assert requested.parse_places(run, "all") == ["iteration 10", "iteration 15", "iteration 20"]
    assert requested.parse_places(run, "20,10") == ["iteration 20", "iteration 10"]
    for asked, said in {"11": "none of iteration 11; it has 10, 15, 20", "first": "invalid 'first'; expected last",
                        "best": "run is not scored yet",
                        LAST: "not complete .its newest checkpoint is of iteration 20.*--checkpoints 20"}.items():
        with pytest.raises(UserError, match=f"checkpoints: .*{said}"):
            requested.parse_places(run, asked)
    complete(run, commit(run, 1, 30, 3, True))
    assert requested.parse_places(run, LAST) == [LAST]
    assert requested.parse_places(run, "30,10") == [LAST, "iteration 10"]


# ---------------------------------------------------------------------------------------------- sweeps and their jobs


def sweep(run: Run, link: str = "sweep001", job_id: str | None = "9", at: str = "iteration 15") -> str:
    """A sweep on record, and its submission; the checkpoint that it needs."""
    evaluations.write(run, link, [Element(at, {})], run.job())
    files.write_json(run.submission_file(link), {"token": "t", "cluster": "slurm", "job_id": job_id})
    return evaluations.resolve(run, at).file


@pytest.mark.parametrize("job_id", ["9", None])
def test_a_sweep_keeps_its_checkpoint_while_its_job_is_on_record_or_being_submitted(run, job_id):
    assert evaluations.awaited(run) == set()
    kept = sweep(run, job_id=job_id)
    assert evaluations.awaited(run) == {kept}


def test_a_sweep_without_a_job_keeps_nothing(run):
    sweep(run)
    run.submission_file("sweep001").unlink()
    assert evaluations.awaited(run) == set()
    files.write_json(run.submission_file("sweep001"), {"token": None, "cluster": "slurm", "former": []})
    assert evaluations.awaited(run) == set(), "refused by Slurm"


def test_a_cancelled_sweep_keeps_nothing_and_one_submitted_after_the_cancel_does(run, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 5.0)  # no clock decides which was first
    sweep(run)
    run.mark_cancelled("cancel")
    assert run.cancelled() and run.cancelled("sweep001") and evaluations.awaited(run) == set()
    kept = sweep(run, "sweep002", at="epoch 1")
    os.utime(run.elements_file("sweep002"), (0, 0))
    assert run.cancelled() and not run.cancelled("sweep002")
    assert evaluations.awaited(run) == {kept}
    run.mark_cancelled("cancel")
    assert run.cancelled("sweep002") and evaluations.awaited(run) == set()


def test_the_cancel_mark_of_an_earlier_version_is_read(run):
    sweep(run)
    files.write_json(run.cancel_file, {"time": 1.0, "by": "cancel"})
    assert run.cancelled() and run.cancelled("evaluate") and run.cancelled("sweep001")
    sweep(run, "sweep002")
    assert not run.cancelled("sweep002")
    run.cancel_file.write_text("{")
    assert run.cancelled() and run.cancelled("sweep001"), "damaged, but there"


def test_a_sweep_whose_job_has_ended_for_good_keeps_nothing_until_it_is_submitted_again(run):
    kept = sweep(run)
    work = evaluations.of_element(run, Element("iteration 15", {}))
    work.attempts_dir.mkdir(parents=True)
    files.write_json(work.attempt_file(1), {"number": 1, "job_id": "9_0", "identity": "slurm:9_0:0:0"})
    assert evaluations.awaited(run) == {kept}
    work.ledger(1, "task000").write("end", cause="cancelled", rank=0)
    assert evaluations.awaited(run) == set()
    assert sweep(run, "sweep002", job_id="12") == kept
    assert evaluations.awaited(run) == {kept}


def test_the_next_sweep_has_a_number_that_none_has_had(run):
    sweep(run, "sweep002")
    assert chain.next_sweep(run) == "sweep003"
    run.elements_file("sweep002").unlink()
    assert chain.next_sweep(run) == "sweep003"
