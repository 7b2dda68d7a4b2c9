"""From a job to a plan: what is trained, with which batch and learning rate, and what is refused before it starts."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from answers import Answers
from small import CLASSES, ROOT

from ecm_cluster.base.errors import UserError
from ecm_cluster.console import shell
from ecm_cluster.job import job
from ecm_cluster.mmconfig import config, settled
from ecm_cluster.plan import class_counts, plan_text, planning
from ecm_cluster.plan.operators import STAMP, Operators
from ecm_cluster.rundir.run import Run

HEADS = {f"model.roi_head.{head}.num_classes": CLASSES for head in ("bbox_head", "mask_head")}
PARTITIONS = ("PartitionName=low Default=YES GraceTime=30 MaxTime=UNLIMITED PreemptMode=REQUEUE State=UP\n"
              "PartitionName=lowc Default=NO GraceTime=5 MaxTime=UNLIMITED PreemptMode=CANCEL State=UP\n"
              "PartitionName=high Default=NO GraceTime=0 MaxTime=UNLIMITED PreemptMode=OFF State=UP\n")


def planned(data: Path, where: str = "local", options: dict[str, Any] | None = None, **values: Any) -> planning.Plan:
    """The plan of the demo's config on a data set."""
    return planning.make(job.make({"config": "configs/demo.py", "device": "cpu", "data_root": str(data),
                                   "options": {**HEADS, **(options or {})}, **values}), where)


def test_the_plan_of_a_sound_job_has_no_problems_and_says_where_everything_is(small_data):
    plan = planned(small_data)
    assert (plan.problems, plan.warnings) == ([], [])
    assert plan.annotations == {"train": small_data / "annotations/lvis_v1_train.json",
                                "test": small_data / "annotations/lvis_v1_val.json"}
    assert plan.cfg["data"]["train"]["dataset"]["img_prefix"] == f"{small_data}/"
    assert plan.config_files[0] == ROOT / "configs/demo.py"
    assert plan.config_files[1:], "the config's bases are part of it"


@pytest.mark.parametrize("value", ["(i for i in 'ab')", "__import__('os')", "lambda: 1"])
def test_a_config_with_what_cannot_be_copied_or_written_is_refused_by_its_key(small_data, tmp_path, value):
    (tmp_path / "odd.py").write_text(f"_base_ = [{str(ROOT / 'configs/demo.py')!r}]\noptimizer = dict(lr={value})\n")
    with pytest.raises(UserError, match="^config .*odd.py: invalid optimizer.lr: a .* expected a number, a string"):
        planned(small_data, config=str(tmp_path / "odd.py"))


def test_the_plan_says_whether_a_resumed_run_is_the_same_one_and_if_not_why(small_data):
    assert "exact       yes: a resumed run is bit-identical" in plan_text.describe(planned(small_data))
    plan = planned(small_data, options={"custom_hooks": [{"type": "SyncRandomSizeHook"}]})
    assert ("exact       no, because custom_hooks: SyncRandomSizeHook: it draws the next epoch's image size"
            in plan_text.describe(plan))


@pytest.fixture
def made_for(tmp_path):
    """The Python of an environment which records that mmcv-full was compiled for a CUDA release, or for the CPU."""
    def make(cuda: str | None, names: tuple[str, ...] | None = None) -> str:
        record = Operators("1.7.2", "2.8.0+cu128", "12.8", cuda, names)
        (tmp_path / "venv" / "bin").mkdir(parents=True)
        (tmp_path / "venv" / STAMP).write_text(json.dumps({"operators": record.as_dict()}))
        return str(tmp_path / "venv" / "bin" / "python")
    return make


def test_the_plan_says_what_the_operators_of_the_jobs_python_were_compiled_for(small_data, made_for):
    plan = planned(small_data, device="cuda", python=made_for("12.8", ("sm_80", "sm_90")))
    assert "mmcv-full   1.7.2: operators for CUDA 12.8 (sm_80, sm_90)" in plan_text.describe(plan)
    assert plan.warnings == []


def test_a_job_on_gpus_with_operators_for_the_cpu_only_gets_a_warning_with_the_remedy(small_data, made_for):
    python = made_for(None)
    plan = planned(small_data, device="cuda", python=python)
    assert "mmcv-full   1.7.2: operators for the CPU only" in plan_text.describe(plan)
    (warning,) = plan.warnings
    assert python in warning and "module load cuda/12.8" in warning and "`make setup`" in warning
    assert planned(small_data, device="cpu", python=python).warnings == []


def test_of_a_python_without_a_record_the_plan_says_nothing(small_data, tmp_path):
    plan = planned(small_data, device="cuda", python=str(tmp_path / "bin" / "python"))
    assert "mmcv-full" not in plan_text.describe(plan)
    assert plan.warnings == []


def test_planning_writes_nothing(small_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan_text.describe(planned(small_data, runs_dir=str(tmp_path / "runs")))
    assert list(tmp_path.iterdir()) == []


def test_a_data_root_may_be_relative_or_in_the_home_folder(small_data, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(small_data.parent))
    monkeypatch.chdir(small_data.parent)
    for spelled in (small_data.name, f"~/{small_data.name}", f"{small_data}/"):
        plan = planned(Path(), data_root=spelled)
        assert plan.annotations["train"] == small_data / "annotations/lvis_v1_train.json"
        assert plan.problems == []


# ---------------------------------------------------------------------------------------------- batch and rate

RULE = {"auto_scale_lr.base_batch_size": 16, "optimizer.lr": 0.02}


def test_the_batch_is_the_sum_over_all_ranks(small_data):
    batch = planned(small_data, nodes=2, gpus=3).batch
    assert (batch["per_gpu"], batch["global"]) == (4, 24)
    batch = planned(small_data, gpus=3, options={"data.imgs_per_gpu": 5}).batch
    assert batch["global"] == 15, "it beats data.samples_per_gpu, as in mmdet"


def test_a_batch_that_the_config_was_not_written_for_is_named_with_the_rate_that_fits(small_data):
    plan = planned(small_data, gpus=8, options=RULE)
    assert plan.cfg["optimizer"]["lr"] == 0.02
    (warning,) = plan.warnings
    assert "learning rate 0.02 is for a batch of 16, this run's batch is 32" in warning
    assert "--set optimizer.lr=0.04" in warning
    assert "32 = 8 × 4; learning rate 0.02 (as in the config)" in plan_text.describe(plan)


def test_the_linear_rule_is_followed_where_the_config_asks_for_it(small_data):
    plan = planned(small_data, gpus=8, options={**RULE, "auto_scale_lr.enable": True})
    assert plan.cfg["optimizer"]["lr"] == plan.batch["lr"] == 0.04
    assert plan.warnings == []
    assert "learning rate 0.04 (linear: 0.02 × 32/16)" in plan_text.describe(plan)
    assert plan.cfg["auto_scale_lr"]["base_batch_size"] == 32, "the frozen config is not scaled again"
    odd = planned(small_data, gpus=1, options={**RULE, "auto_scale_lr.base_batch_size": 12,
                                               "auto_scale_lr.enable": True})
    assert odd.cfg["optimizer"]["lr"] == 4 / 12 * 0.02 != 0.02 * 4 / 12, "in mmdet's order"


@pytest.mark.parametrize("enable", [True, False])
def test_the_batch_that_the_config_was_written_for_changes_nothing(small_data, enable):
    plan = planned(small_data, gpus=4, options={**RULE, "auto_scale_lr.enable": enable})
    assert plan.cfg["optimizer"]["lr"] == 0.02
    assert plan.warnings == []


def test_a_config_that_names_no_batch_is_left_alone(small_data):
    plan = planned(small_data, gpus=8)
    assert plan.cfg["optimizer"]["lr"] == 1e-3
    assert plan.warnings == []


def test_several_optimizers_keep_their_rates(small_data, tmp_path):
    path = tmp_path / "two.py"
    path.write_text(f"_base_ = ['{ROOT}/configs/demo.py']\n"
                    "optimizer = dict(_delete_=True, constructor='mine.Each',\n"
                    "                 backbone=dict(type='SGD', lr=1), head=dict(type='SGD', lr=2))\n"
                    "auto_scale_lr = dict(enable=True, base_batch_size=1)\n")
    plan = planned(small_data, config=str(path))
    assert [plan.cfg["optimizer"][k]["lr"] for k in ("backbone", "head")] == [1, 2]


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(("options", "said"), [
    ({"workflow": [("train", 1), ("val", 1)]}, "config: invalid workflow: [('train', 1), ('val', 1)]; expected"),
    ({"runner.type": "EpochBasedRuner"}, "did you mean EpochBasedRunner?"),
    ({"runner.type": "DynamicIterBasedRunner"}, "expected one of: EpochBasedRunner, IterBasedRunner"),
    ({"checkpoint_config.sync_buffer": True}, "use custom_hooks=[dict(type='SyncBuffersHook')] instead"),
])
def test_what_the_launcher_does_not_carry_out_is_refused_in_one_line(small_data, options, said):
    with pytest.raises(UserError) as caught:
        planned(small_data, options=options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["model", "data", "runner", "optimizer", "lr_config"])
def test_half_a_config_is_refused_by_what_it_lacks(small_data, missing):
    cfg = config.read("configs/demo.py")
    cfg.pop(missing)
    with pytest.raises(UserError, match=missing):
        settled.settle(cfg)


def test_a_value_that_cannot_be_written_down_is_refused_before_a_dry_run_says_that_all_is_well(small_data, tmp_path):
    path = tmp_path / "own.py"
    path.write_text(f"_base_ = ['{ROOT}/configs/demo.py']\nextra = dict(x=[1, object()])\n")
    with pytest.raises(UserError, match=r"config .*own.py: invalid extra\.x\.1: a object"):
        planned(small_data, config=str(path))
    path.write_text(f"_base_ = ['{ROOT}/configs/demo.py']\ngpu_ids = range(0, 1)\n")
    plan = planned(small_data, config=str(path))
    assert "not used    gpu_ids: the job's device, nodes and gpus" in plan_text.describe(plan)


def test_a_workflow_may_be_written_with_lists(small_data):
    assert planned(small_data, options={"workflow": [["train", 1]]}).problems == []


def test_the_plan_lists_what_the_config_sets_and_nobody_uses_with_the_reason(small_data):
    said = plan_text.describe(planned(small_data, options={"work_dir": "w", "evaluation": {"save_best": "auto"}}))
    assert "not used    work_dir: all files of a run are in its own directory" in said
    assert "not used    evaluation.save_best: `evaluate RUN --checkpoints all`" in said


def test_on_one_machine_gpus_of_several_nodes_are_refused_and_partitions_mean_nothing(small_data):
    with pytest.raises(UserError, match="invalid nodes: 2; expected 1 with --cluster local and --device cuda"):
        planned(small_data, nodes=2, device="cuda")
    assert planned(small_data, nodes=2, partition="x").warnings == [
        "partition and gpu_type are ignored with --cluster local"]


# ---------------------------------------------------------------------------------------------- data


@pytest.fixture
def damaged(small_data, tmp_path) -> Path:
    """A copy of the data set, without its pictures' weight, to be broken."""
    shutil.copytree(small_data, tmp_path / "data")
    return tmp_path / "data"


def test_every_problem_of_the_data_is_listed_not_the_first_alone(damaged):
    (damaged / "annotations/lvis_v1_train.json").write_text('{"images": [')
    (damaged / "annotations/lvis_v1_val.json").unlink()
    plan = planned(damaged)
    assert len(plan.problems) == 2
    assert plan.problems[0].startswith("data.train.dataset.ann_file:")
    assert plan.problems[1].startswith("data.test.ann_file:")
    assert not any("\n" in problem for problem in plan.problems)


def test_missing_pictures_are_a_problem(damaged):
    shutil.rmtree(damaged / "train2017")
    (problem,) = planned(damaged).problems
    assert "data.train.dataset.img_prefix" in problem


def test_annotations_of_two_data_sets_are_a_problem(damaged):
    path = damaged / "annotations/lvis_v1_val.json"
    content = json.loads(path.read_text())
    content["categories"][0]["name"] = "something else"
    path.write_text(json.dumps(content))
    (problem,) = planned(damaged).problems
    assert "has other categories: label 0" in problem


def test_heads_with_another_number_of_classes_than_the_file_are_a_problem_with_its_remedy(small_data):
    (problem,) = planned(small_data, options={"model.roi_head.mask_head.num_classes": 24}).problems
    assert f"--set model.roi_head.mask_head.num_classes={CLASSES}" in problem
    assert "bbox_head" not in problem
    assert planned(small_data, options={f"{k}": 24 for k in HEADS}).problems[0].count("--set") == 2


def test_no_data_set_at_all_is_a_problem_that_names_the_file(tmp_path):
    plan = planned(tmp_path / "none")
    assert len(plan.problems) == 2
    assert str(tmp_path / "none/annotations/lvis_v1_train.json") in plan.problems[0]


# ---------------------------------------------------------------------------------------------- class counts


def test_class_counts_are_frozen_into_the_config_as_the_file_says_them(small_data):
    plan = planned(small_data)
    loss = plan.cfg["model"]["roi_head"]["bbox_head"]["loss_cls"]
    path = Path(loss["class_counts"])
    assert path == small_data / "annotations/lvis_v1_train.json", "until submission the plan names the file"
    digests = class_counts.freeze(plan.cfg)
    categories = sorted(json.loads(path.read_text())["categories"], key=lambda c: c["id"])
    assert loss["class_counts"] == [c["instance_count"] for c in categories]
    assert all(type(n) is int for n in loss["class_counts"])
    assert list(digests) == [loss["type"]]
    assert class_counts.freeze(plan.cfg) == {}, "what is frozen stays as it is"


def test_counts_from_another_field_and_from_a_text_file(small_data, tmp_path):
    text = tmp_path / "counts.txt"
    text.write_text("".join(f"{n}\n" for n in range(1, CLASSES + 1)))
    plan = planned(small_data, options={"model.roi_head.bbox_head.loss_cls.class_counts": str(text)})
    class_counts.freeze(plan.cfg)
    assert plan.cfg["model"]["roi_head"]["bbox_head"]["loss_cls"]["class_counts"] == list(range(1, CLASSES + 1))
    plan = planned(small_data, options={"model.roi_head.bbox_head.loss_cls.count_field": "image_count"})
    before = copy.deepcopy(plan.cfg)
    class_counts.freeze(plan.cfg)
    found = plan.cfg["model"]["roi_head"]["bbox_head"]["loss_cls"]["class_counts"]
    stored = json.loads(Path(before["model"]["roi_head"]["bbox_head"]["loss_cls"]["class_counts"]).read_text())
    assert found == [c["image_count"] for c in sorted(stored["categories"], key=lambda c: c["id"])]


@pytest.mark.parametrize(("content", "said"), [
    ("3\n0\n5\n", "class_counts"), ("3\nx\n", "class_counts"), (None, "none.txt")])
def test_counts_that_cannot_be_used_are_refused_in_one_line(small_data, tmp_path, content, said):
    path = tmp_path / ("counts.txt" if content else "none.txt")
    if content:
        path.write_text(content)
    plan = planned(small_data, options={"model.roi_head.bbox_head.loss_cls.class_counts": str(path)})
    with pytest.raises(UserError) as caught:
        class_counts.freeze(plan.cfg)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert plan.problems == [str(caught.value)], "a dry run says the same"


def test_a_stats_file_is_read_checked_and_frozen_as_class_counts_are(small_data, tmp_path):
    text, key = tmp_path / "counts.txt", "model.roi_head.bbox_head.loss_cls"
    text.write_text("".join(f"{n}\n" for n in range(1, CLASSES + 1)))
    options: dict[str, Any] = {f"{key}.class_counts": None, f"{key}.stats_file": str(text)}
    plan = planned(small_data, options=options)
    assert not plan.problems
    assert list(class_counts.freeze(plan.cfg)) == ["EffectiveClassMarginLoss"]
    loss = plan.cfg["model"]["roi_head"]["bbox_head"]["loss_cls"]
    assert loss["class_counts"] == list(range(1, CLASSES + 1)) and "stats_file" not in loss
    for content, said in ((None, "cannot be read"), ("3\n0\n", "have a count of zero"), ("3 4\n", "not one count")):
        text.unlink()
        if content:
            text.write_text(content)
        (problem,) = planned(small_data, options=options).problems
        assert said in problem and problem.startswith("stats_file: ") and "\n" not in problem
        text.touch()
    both = planned(small_data, options={f"{key}.stats_file": str(text)}).problems
    neither = planned(small_data, options={f"{key}.class_counts": None}).problems
    assert "either class_counts or stats_file, found both" in both[0] and "found neither" in neither[0]


# ---------------------------------------------------------------------------------------------- the place


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Answers:
    answers = Answers(tmp_path, monkeypatch)
    answers(scontrol=PARTITIONS, sbatch="")
    return answers


def test_a_partition_that_does_not_exist_is_refused_with_those_that_do(small_data, slurm):
    with pytest.raises(UserError) as caught:
        planned(small_data, "slurm", partition="hihg")
    assert str(caught.value) == "partition: 'hihg' is unknown (did you mean high?); expected one of: low, lowc, high"
    with pytest.raises(UserError, match="'other' is unknown"):
        planned(small_data, "slurm", partition="low,other")


def test_without_an_answer_of_slurm_a_partition_is_left_to_sbatch(small_data, slurm):
    slurm(scontrol=None)
    plan = planned(small_data, "slurm", partition="any")
    assert plan.partition is None
    assert "partition any" in plan_text.describe(plan)


@pytest.mark.parametrize(("partition", "said"), [
    (None, "partition low (the default), time limit 24:00:00; when preempted (partition low, grace 30 s): commit, "
           "requeue, continue; when out of time: commit, requeue, continue"),
    ("high", "partition high, time limit 24:00:00; never preempted (partition high); when out of time: commit"),
    ("high,low", "never preempted (partition high); when preempted (partition low, grace 30 s): commit, requeue"),
    ("lowc", "when preempted (partition lowc, grace 5 s): commit, then a successor job is submitted; when out of time"),
])
def test_the_plan_says_what_the_partition_will_do(small_data, slurm, partition, said):
    assert said in plan_text.describe(planned(small_data, "slurm", partition=partition))


def test_the_plan_says_what_a_job_has_from_the_shell_and_warns_of_what_it_has_not(small_data, slurm, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("SBATCH_ACCOUNT", "vision")
    monkeypatch.setenv("SBATCH_PARTITION", "low")
    monkeypatch.setenv("SBATCH_GRES", "gpu:1")
    plan = planned(small_data, "slurm", account="vision", partition="high")
    assert "  from shell  account vision (SBATCH_ACCOUNT)\n" in plan_text.describe(plan)
    assert [text for text in plan.warnings if text.startswith("ignored")] == shell.ignored(
        {"SBATCH_PARTITION": "low", "SBATCH_GRES": "gpu:1"}, plan.job)
    assert "from shell" not in plan_text.describe(planned(small_data, "local", account="vision"))


def test_a_shell_that_sends_jobs_to_another_cluster_is_refused(small_data, slurm, monkeypatch):
    monkeypatch.setenv("SLURM_CLUSTERS", "other")
    with pytest.raises(UserError, match="SLURM_CLUSTERS: 'other' is not this cluster"):
        planned(small_data, "slurm")


def test_what_sbatch_would_not_take_is_refused_in_its_own_words(small_data, slurm, tmp_path):
    slurm.script("sbatch", "echo 'sbatch: error: Invalid qos specification' >&2\n"
                           "echo 'allocation failure: Invalid qos specification' >&2\nexit 1\n")
    plan = planned(small_data, "slurm", qos="none")
    with pytest.raises(UserError) as caught:
        planning.check_with_slurm(plan, Run(tmp_path / "run"))
    assert "sbatch would refuse the train job: Invalid qos specification" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------- on a login node

BLOCKED = ("torch", "torchvision", "mmcv", "mmdet", "numpy", "cv2", "pycocotools", "lvis")


def test_a_plan_with_frozen_counts_needs_nothing_that_a_login_node_lacks(small_data):
    program = (
        "import sys\n"
        f"for name in {BLOCKED!r}: sys.modules[name] = None\n"
        "from ecm_cluster.mmconfig import config; from ecm_cluster.job import job\n"
        "from ecm_cluster.plan import class_counts, plan_text, planning\n"
        "values = {'config': 'configs/demo.py', 'device': 'cpu', 'data_root': sys.argv[1]}\n"
        "plan = planning.make(job.make(values), 'local')\n"
        "class_counts.freeze(plan.cfg)\n"
        "print(len(config.dump(plan.cfg)), plan_text.describe(plan))\n")
    done = subprocess.run([sys.executable, "-c", program, str(small_data)], cwd=ROOT, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    assert "configs/demo.py" in done.stdout
