"""Where a model goes wrong is written beside its figures, from stored detections, with pictures if images are there."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_utils
from scored import ANNOTATIONS, scored_run

from ecm_cluster import evaluate
from ecm_cluster.base import files
from ecm_cluster.base.errors import UserError
from ecm_cluster.console import cli
from ecm_cluster.node.inference import analyse
from ecm_cluster.rundir.run import Evaluation, Run
from ecm_cluster.scoring.detection_files import DetectionWriter
from ecm_cluster.scoring.detections import of_image
from ecm_cluster.scoring.parts import LVIS, OWN, ScoredDataset, ScoredSet
from ecm_cluster.staging import planned


def stored_run(folder: Path, kind: str = LVIS) -> Run:
    """A run whose checkpoint of iteration 10 is scored, with the detections that it was scored by."""
    files.write_json(folder.parent / "same.json", ANNOTATIONS)
    run = scored_run(folder, {10: 0.3}, planned.digest_of_all([files.digest(folder.parent / "same.json")]))
    ann_file, (work,) = folder / "val.json", run.evaluations()
    work.detections_dir.mkdir()
    mask = mask_utils.encode(np.asfortranarray(np.pad(np.ones((3, 3), np.uint8), (0, 5))))
    writer = DetectionWriter(1)
    writer.add(0, of_image(1, [1, 2], [0.9, 0.4], [[0, 0, 2, 2], [0, 0, 8, 8]], [mask, mask]))
    writer.write(work.chunk_file(0))
    files.write_json(work.chunks_file, {"chunks": 1, "images": 1})
    part = ScoredDataset(kind, "LVISFromFile", str(ann_file), [1], [1, 2, 3, 4])
    ScoredSet([part], by_position=False).write(work.scored_set_file)
    return run


@pytest.fixture
def run(tmp_path) -> Run:
    return stored_run(tmp_path / "first")


def work_of(run: Run) -> Evaluation:
    (work,) = run.evaluations()
    return work


def test_an_analysis_is_written_once_with_a_picture(run):
    assert analyse.main(str(run.path)) == 0
    made = json.loads(work_of(run).analysis_file.read_text())
    assert (made["iou_type"], made["tide"]["r"]["Miss"]) == ("segm", 0.0)
    assert made["tide"]["r"]["Loc"] == pytest.approx(1.0)
    (worst,) = made["worst"]
    assert (worst["missed"], worst["truth"][0]["name"]) == (1, "ant")
    assert cv2.imread(str(work_of(run).path / worst["image"])).shape == (8, 8, 3)
    assert analyse.newest_without(run) == []


def test_without_the_image_there_is_no_picture(run):
    (run.path / "1.jpg").unlink()
    analyse.main(str(run.path))
    assert json.loads(work_of(run).analysis_file.read_text())["worst"][0]["image"] is None


def test_images_are_read_from_a_pack(tmp_path, run, monkeypatch):
    asked = []

    class Pack:
        @classmethod
        def open(cls, path: str) -> Pack:
            asked.append(path)
            return cls()

        def get(self, path: str) -> bytes:
            asked.append(path)
            return (run.path / "1.jpg").read_bytes()

    monkeypatch.setattr(analyse, "PackedImages", Pack)
    record = files.read_json(run.run_file)
    files.write_json(run.run_file, {**record, "staging": {"pack": "/a.pack", "columns": "/c", "annotations": {}}})
    analyse.main(str(run.path))
    assert asked == ["/a.pack", str(run.path / "1.jpg")]
    assert work_of(run).analysis_image(0).exists()


def test_changed_annotations_are_not_analysed(run):
    files.write_text(run.path / "val.json", (run.path / "val.json").read_text() + " ")
    with pytest.raises(UserError, match="has changed since first was submitted"):
        analyse.main(str(run.path))
    assert not work_of(run).analysis_file.exists()


@pytest.mark.parametrize("kind", [OWN, None])
def test_what_cannot_be_analysed_is_said_and_fails_nothing(tmp_path, kind, capsys):
    run = stored_run(tmp_path / "first", kind or LVIS)
    if kind is None:
        work_of(run).chunk_file(0).unlink()
    assert analyse.run_process([str(run.path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("warning: analysis: ") and len(said.splitlines()) == 1
    assert ("no detections" if kind is None else "own rule") in said


@pytest.mark.parametrize(("shape", "size"), [((1500, 1000), (640, 427)), ((20, 3000), (4, 640)), ((9, 7), (9, 7))])
def test_a_picture_is_small(shape, size):
    noise = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    picture = analyse.small(cv2.imencode(".png", noise)[1].tobytes())
    assert cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR).shape[:2] == size
    assert len(picture) <= analyse.BYTES


@pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8\xff"])
def test_other_data_than_an_image_gives_no_picture(data):
    assert analyse.small(data) is None


# ---------------------------------------------------------------------------------------------- the verb


def call(capsys, *argv: object) -> tuple[int, str, str]:
    code = cli.run(evaluate.main, [str(a) for a in argv])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.slow
def test_an_earlier_evaluation_is_analysed_on_demand(run, capfd):
    code, out, err = call(capfd, run.path, "--checkpoints", 10, "--analysis")
    assert (code, err) == (0, "")
    assert "what mask AP50 would gain without each kind of error" in out and str(work_of(run).analysis_file) in out
    before = work_of(run).analysis_file.stat()
    call(capfd, run.path, "--checkpoints", 10, "--analysis")
    assert work_of(run).analysis_file.stat() == before


@pytest.mark.slow
def test_a_failed_analysis_is_one_line(run, capfd):
    work_of(run).chunk_file(0).unlink()
    code, _, err = call(capfd, run.path, "--checkpoints", 10, "--analysis")
    assert code == 1 and "has no detections that an analysis could read" in err
    assert "Traceback" not in err


def test_a_damaged_analysis_is_said_in_one_line(run, capfd):
    files.write_text(work_of(run).analysis_file, '{"tide": 3}')
    code, _, err = call(capfd, run.path, "--checkpoints", 10, "--analysis")
    assert code == 0 and err.startswith("warning: ") and len(err.splitlines()) == 1


def test_stored_detections_become_a_results_file(run, capsys, tmp_path):
    code, _, err = call(capsys, run.path, "--checkpoints", 10, "--results-json", tmp_path / "results.json")
    assert (code, err) == (0, f"2 detections written to {tmp_path}/results.json\n")
    assert [row["category_id"] for row in json.loads((tmp_path / "results.json").read_text())] == [1, 2]


def test_a_results_file_of_detections_that_are_gone_leaves_the_old_one(run, capsys, tmp_path):
    (tmp_path / "results.json").write_text("old")
    work_of(run).chunk_file(0).write_bytes(b"PK")
    code, _, err = call(capsys, run.path, "--checkpoints", 10, "--results-json", tmp_path / "results.json")
    assert (code, len(err.splitlines())) == (2, 1) and "not a readable shard" in err
    work_of(run).chunk_file(0).unlink()
    code, _, err = call(capsys, run.path, "--checkpoints", 10, "--results-json", tmp_path / "results.json")
    assert (code, len(err.splitlines())) == (2, 1) and "no stored detections of iteration 10" in err
    assert [path.name for path in tmp_path.glob("*results*")] == ["results.json"]
    assert (tmp_path / "results.json").read_text() == "old"


def test_a_results_file_is_of_one_set_of_detections(run, capsys, tmp_path):
    code, _, err = call(capsys, run.path, "--checkpoints", 10, "--vary", "nms_iou=0.4,0.6", "--results-json",
                        tmp_path / "results.json", "--dry-run")
    assert code == 2 and "these are 2 (first, iteration 10, nms_iou 0.4; first, iteration 10, nms_iou 0.6)" in err
