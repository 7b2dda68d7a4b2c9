"""A run's data on its node: the same training wherever it is read from, and an answer where there is no room."""

from __future__ import annotations

from pathlib import Path

import pytest
from comparing import bits, log_lines, state_in
from small import await_state, job_flags, verb

from ecm_cluster.base import files
from ecm_cluster.base.errors import UserError
from ecm_cluster.mmconfig import config
from ecm_cluster.node import staged_data
from ecm_cluster.node.world import RankInfo
from ecm_cluster.rundir.run import Run

PLACE = RankInfo(rank=0, world_size=1, local_rank=0, node=0, nodes=1, job_id="7", restart=0, cluster="local")


@pytest.fixture(scope="module")
def pack(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("packed") / "lvis.pack"
    verb("stage", "pack", small_data, target)
    return target


def submitted(data: Path, folder: Path, name: str, *flags: object) -> Run:
    """A run as it is when its first attempt begins: frozen, and nobody at work."""
    verb("submit", *job_flags(data, folder, name), "--cluster", "local", *flags, env={files.KILL_ENV: "before-driver"},
         code=None)
    run = Run(folder / name)
    assert run.run_file.exists()
    return run


def said(run: Run) -> list[tuple[str, str]]:
    return [(e.kind, e.get("source") or e.get("what")) for e in run.events() if e.kind in ("staged", "staging")]


def prepared(run: Run, attempt: int = 1) -> staged_data.Data:
    run.attempts_dir.mkdir(exist_ok=True)
    return staged_data.prepare(run, run.job(), run, PLACE, attempt, "train")


def test_a_pack_is_copied_once_and_there_at_the_next_attempt(pack, tmp_path):
    run = submitted(pack, tmp_path, "packed")
    for attempt in (1, 2):
        data = prepared(run, attempt)
        assert data.folder is not None and (data.folder / "images/lvis_v1_train-00000.tar").exists()
        assert not (data.folder / "images/lvis_v1_val-00000.tar").exists(), "a training does not read it"
        (columns,) = data.columns.values()
        assert columns.startswith(str(data.folder))
    assert said(run) == [("staged", "copied"), ("staged", "there")]


@pytest.mark.slow
def test_the_columns_of_a_plain_data_root_are_made_once_and_staged(small_data, tmp_path, monkeypatch):
    monkeypatch.setenv("ECM_CLUSTER_ANNOTATIONS", str(tmp_path / "kept"))
    run = submitted(small_data, tmp_path, "plain")
    data = prepared(run)
    assert (data.pack, data.folder) == (None, None)
    ((ann_file, columns),) = data.columns.items()
    assert ann_file == str(small_data / "annotations/lvis_v1_train.json")
    assert columns.startswith(str(tmp_path / "scratch"))
    (kept,) = (tmp_path / "kept").glob("*/lvis_v1_train.columns")
    made = kept.stat()
    assert prepared(submitted(small_data, tmp_path, "again")).columns == data.columns
    assert kept.stat().st_mtime_ns == made.st_mtime_ns


@pytest.mark.slow
def test_an_annotation_file_that_has_changed_is_parsed_by_nobody_as_if_it_were_the_old_one(
        small_data, tmp_path, monkeypatch):
    # where another run of the same file has left its columns, these are used
    monkeypatch.setenv("ECM_CLUSTER_ANNOTATIONS", str(tmp_path / "kept"))
    root = tmp_path / "data"
    (root / "annotations").mkdir(parents=True)
    for name in ("lvis_v1_train.json", "lvis_v1_val.json"):
        (root / "annotations" / name).write_bytes((small_data / "annotations" / name).read_bytes())
    for split in ("train2017", "val2017"):
        (root / split).symlink_to(small_data / split)
    run = submitted(root, tmp_path, "changed")
    changed = root / "annotations/lvis_v1_train.json"
    changed.write_text(changed.read_text() + "\n")
    assert prepared(run).columns == {}
    (event,) = [e for e in run.events() if e.kind == "staging"]
    assert "has changed since the submission" in event["detail"]


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--stage-or-fail",)])
def test_without_room_shared_storage_is_read_unless_the_job_forbids_it(pack, tmp_path, flags):
    (tmp_path / "full").write_text("no folder")
    run = submitted(pack, tmp_path, "nowhere", "--scratch", tmp_path / "full", *flags)
    if flags:
        with pytest.raises(UserError, match="^staging: .*full"):
            prepared(run)
        return
    data = prepared(run)
    assert (data.pack, data.folder) == (pack, None)
    assert list(data.columns.values()) == [str(pack / "annotations/lvis_v1_train.columns")]
    assert said(run) == [("staging", "failed")]


def test_nothing_is_copied_where_the_job_says_so(pack, tmp_path):
    run = submitted(pack, tmp_path, "none", "--stage", "none")
    assert prepared(run).folder is None
    assert said(run) == [] and not (tmp_path / "scratch").exists()


def test_a_pack_with_other_annotations_than_it_was_made_with_is_refused(pack, tmp_path):
    broken = tmp_path / "broken.pack"
    broken.mkdir()
    for path in pack.rglob("*"):
        target = broken / path.relative_to(pack)
        target.mkdir() if path.is_dir() else target.write_bytes(path.read_bytes())
    ann_file = broken / "annotations/lvis_v1_train.json"
    ann_file.write_text(ann_file.read_text() + "\n")
    done = verb("submit", *job_flags(broken, tmp_path, "refused"), "--cluster", "local", code=2)
    assert "has changed since the pack" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "refused").exists()


@pytest.mark.slow
def test_a_config_needs_no_edit_and_what_reads_images_otherwise_stays_as_it_is(pack, tmp_path):
    from mmcv import Config

    cfg = Config(config.read(str(submitted(pack, tmp_path, "edited").config_file)))
    own = dict(type="LoadImageFromFile", file_client_args=dict(backend="petrel"))
    cfg.data.test.pipeline.insert(0, own)
    staged_data.use(cfg, staged_data.Data(pack=pack, columns={"/a.json": "/a.columns"}))
    assert cfg.data.train.type != "ClassBalancedDataset"
    assert cfg.data.train.dataset.pipeline[0].file_client_args == dict(backend="packed", pack=str(pack))
    assert cfg.data.test.pipeline[0]["file_client_args"] == dict(backend="petrel")


@pytest.mark.slow
def test_files_packs_and_copies_of_packs_train_to_the_same_bits(pack, small_data, tmp_path):
    (tmp_path / "full").write_text("no folder")
    runs = []
    for name, data, flags in (("files", small_data, ("--stage", "none")), ("staged", pack, ()),
                              ("shared", pack, ("--scratch", tmp_path / "full"))):
        verb("submit", *job_flags(data, tmp_path, name), "--cluster", "local", "--no-eval", *flags)
        runs.append(Run(tmp_path / name))
        await_state(runs[-1], "done")
    ends = []
    for run in runs:
        state = state_in(run.checkpoints_dir / run.completion())
        state["meta"].pop("config_digest", None)
        ends.append((bits(state), log_lines(run)))
    assert ends[0] == ends[1] == ends[2]
    assert [said(run) for run in runs] == [[], [("staged", "copied")], [("staging", "failed")]]
