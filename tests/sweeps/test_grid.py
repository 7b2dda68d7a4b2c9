"""What is varied, and which runs come of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecm_cluster.base.errors import UserError
from ecm_cluster.job import job as jobs
from ecm_cluster.mmconfig import config
from ecm_cluster.mmconfig.lookup import at
from ecm_cluster.sweeps import axes, cells

LOSS = "model.roi_head.bbox_head.loss_cls"
LVIS, DEMO, CASCADE = "configs/ecm/mask_rcnn_r50_1x.py", "configs/demo.py", "configs/ecm/cascade_mask_rcnn_r101_2x.py"


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)


def grid(*varied: str, name: str = "g", sweep: str | None = None, **job: object) -> list[cells.Cell]:
    return cells.combine(name, jobs.make({"config": DEMO, **job}), axes.read(varied, sweep))


def loss_of(cell: cells.Cell, place: str = LOSS) -> dict[str, object]:
    """The loss that a run is trained with."""
    assert cell.job is not None
    return at(config.apply_options(config.read(cell.job.config), cell.job.options), place)


def test_every_combination_is_a_run_with_its_own_short_name_and_job():
    found = grid("seed=0,1", f"{LOSS}=@ecm,@ce", "optimizer.lr=1e-2,0.001")
    assert [cell.name for cell in found] == [
        f"g-seed{seed}-{loss}-lr{rate}" for seed in (0, 1) for loss in ("ecm", "ce") for rate in ("0.01", "0.001")]
    assert {cell.job.seed for cell in found} == {0, 1}
    assert [cell.job.name for cell in found] == [cell.name for cell in found]
    assert found[-1].settings == {"seed": "1", LOSS: "@ce", "optimizer.lr": "0.001"}
    assert cells.label(found[-1].settings) == "ce, lr 0.001"


def test_values_are_written_as_those_of_set():
    (steps, clip, on, words) = axes.read(["lr_config.step=[8,11],[6,9]", "optimizer_config.grad_clip=None",
                                          "model.backbone.norm_eval=true,False", "+x=a,'b'"], None)
    assert [value.given for value in steps.values] == [[8, 11], [6, 9]]
    assert [value.given for value in (*clip.values, *on.values, *words.values)] == [None, True, False, "a", "b"]
    (limit, memory) = axes.read(["time=1:00:00,90", "mem_per_gpu=4G"], None)
    assert [value.given for value in (*limit.values, *memory.values)] == ["1:00:00", "90", "4G"]
    assert [cell.name for cell in grid("lr_config.step=[8,11],[6,9]")] == ["g-step8_11", "g-step6_9"]


def test_a_sweep_file_gives_the_same_runs_as_flags_and_can_name_values_of_its_own(tmp_path):
    own = tmp_path / "sweep.yaml"
    own.write_text(f"seed: [0, 1]\n{LOSS}:\n- '@ce'\n- '@focal': {{type: FocalLoss, use_sigmoid: true}}\n"
                   "lr_config.step: [[8, 11]]\n")
    found = grid(sweep=str(own))
    flags = grid("seed=0,1", f"{LOSS}=@ce", "lr_config.step=[8,11]")
    assert {cell.name for cell in flags} < {cell.name for cell in found}
    assert [cell.digest for cell in found if cell.name == flags[0].name] == [flags[0].digest]
    assert found[1].name == "g-seed0-focal-step8_11"
    assert loss_of(found[1]) == {"type": "FocalLoss", "use_sigmoid": True}


def test_a_named_value_replaces_the_whole_of_the_old_one_and_fits_the_jobs_own_data():
    ecm, ce, seesaw = map(loss_of, grid(f"{LOSS}=@ecm,@ce,@seesaw"))
    assert ce == {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0}
    assert (seesaw["type"], seesaw["num_classes"]) == ("SeesawLoss", 24)
    assert ecm["class_counts"] == "data/demo/annotations/lvis_v1_train.json"
    assert not {"class_counts", "fg_bg_ratio"} & set(seesaw)
    fewer = grid(f"{LOSS}=@seesaw", options={"model.roi_head.bbox_head.num_classes": 6})
    assert loss_of(fewer[0])["num_classes"] == 6


def test_shipped_baselines_are_what_their_names_make_of_the_main_config():
    for name in ("ecm", "ce", "seesaw", "nick", "nick_author_bg"):
        folder = "baselines" if name in ("ce", "seesaw") else "ecm"
        path = f"configs/{folder}/mask_rcnn_r50_1x{'' if name == 'ecm' else '_' + name}.py"
        assert loss_of(grid(f"{LOSS}=@{name}", config=LVIS)[0]) == at(config.read(path), LOSS), name


def test_a_loss_without_counts_is_followed_by_one_that_needs_them():
    found = grid(f"{LOSS}=@ecm", config="configs/baselines/mask_rcnn_r50_1x_ce.py")
    assert loss_of(found[0]) == at(config.read(LVIS), LOSS)


def test_every_head_of_a_cascade_gets_the_value():
    (found,) = grid(f"{LOSS}=@seesaw", config=CASCADE)
    for stage in range(3):
        loss = loss_of(found, LOSS.replace("bbox_head", f"bbox_head.{stage}"))
        assert (loss["type"], loss["num_classes"]) == ("SeesawLoss", 1203)


def test_a_config_of_the_users_own_can_be_named_by_its_path(tmp_path):
    Path("mine.py").write_text("model = dict(roi_head=dict(bbox_head=dict(loss_cls=dict(type='MyLoss', a=1))))\n")
    (found,) = grid(f"{LOSS}=@./mine.py")
    assert (found.name, loss_of(found)) == ("g-mine", {"type": "MyLoss", "a": 1})


REFUSED = {
    ("seed",): "vary: invalid value 'seed'; expected NAME=VALUE,VALUE",
    ("seed=",): "vary: seed: invalid values",
    ("seed=0,",): "vary: seed: invalid values",
    ("lr_config.step=[1,2],[3",): "vary: lr_config.step: invalid values",
    ("seed=0,x",): "vary: seed: invalid value 'x'; expected a whole number",
    ("seed=0,0",): "vary: seed: 0 is given twice",
    ("seed=0", "seed=1"): "vary: seed and seed set the same value",
    (f"{LOSS}=@ce", f"{LOSS}.loss_weight=1"): f"{LOSS} set the same value",
    ("name=a,b",): "vary: name cannot be varied: the group names its runs",
    ("env.A=1",): "vary: env.A cannot be varied: its values are secrets",
    ("evaluation=false",): "vary: evaluation cannot be varied",
    ("seed=@ecm",): "vary: seed: invalid value '@ecm'; expected a value",
    (f"{LOSS}=@cee",): "'@cee' is unknown (did you mean @ce?); expected one of: @ecm, @ce, @seesaw",
    ("model.neckk=@ecm",): "the config has no such key that @ecm could replace",
    (f"{LOSS}=@./none.py",): "does not exist",
    ("optimizer.momentum=@ce",): "the config has no such key that @ce could replace",
    ("data_root=a/x,b/x",): "a/x and b/x would both be run g-x",
    ("seed=" + ",".join(map(str, range(1001))),): "1001 runs; expected 1000 at most",
}


@pytest.mark.parametrize("varied", REFUSED)
def test_what_cannot_be_varied_is_refused_in_one_line(varied):
    with pytest.raises(UserError) as refused:
        grid(*varied)
    assert REFUSED[varied] in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_value_at_a_key_that_its_own_config_has_not_is_refused(tmp_path):
    Path("empty.py").write_text("model = dict(type='X')\n")
    with pytest.raises(UserError, match="is what ./empty.py has at this key, and it has none"):
        grid(f"{LOSS}=@./empty.py")


def test_sweep_files_are_refused_with_the_file_and_the_key(tmp_path):
    for text, said in (("seed: 3", "'seed': expected a list of values"), ("", "varies nothing"),
                       ("seed: []", "seed: the list is empty"), ("- 1", "expected a mapping")):
        Path("sweep.yaml").write_text(text)
        with pytest.raises(UserError, match=said) as refused:
            axes.read([], "sweep.yaml")
        assert "sweep.yaml" in str(refused.value)


def test_long_values_have_short_names_that_differ():
    one, other = ("[" + ",".join(map(str, range(start, start + 60))) + "]" for start in (1, 2))
    names = [cell.name for cell in grid(f"lr_config.step={one},{other}")]
    assert len(set(names)) == 2 and all(len(name) < 40 for name in names)
