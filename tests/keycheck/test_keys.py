"""Every key that mmdet's train.py, test.py and train_detector read is carried out, refused, or listed as not used."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ecm_cluster.base.errors import UserError
from ecm_cluster.keycheck import keys
from ecm_cluster.mmconfig import config, settled

METHODS = {"get", "pop", "items", "keys", "copy", "setdefault", "update", "dump", "merge_from_dict", "pretty_text",
           "filename", "_cfg_dict", "fromfile", "replace"}
OWN_ARGUMENTS = {"self", "dataloader", "results", "args", "kwargs", "eval_kwargs"}


def folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    return Path(next(iter(found.submodule_search_locations)))


def tree(package: str, name: str) -> ast.Module:
    return ast.parse((folder(package) / name).read_text())


class Reads(ast.NodeVisitor):
    """The dotted keys that code looks up in a variable ``cfg``, through any names it gives to parts of it."""

    def __init__(self) -> None:
        self.names = {"cfg": "", "ori_cfg": "", "updated_cfg": ""}
        self.found: set[str] = set()

    def resolve(self, node: ast.AST) -> str | None:
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if isinstance(node, ast.Attribute):
            return self.inside(node.value, None if node.attr in METHODS else node.attr)
        if isinstance(node, ast.Subscript):
            return self.inside(node.value, getattr(node.slice, "value", None))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("get", "pop", "setdefault") and node.args:
                return self.inside(node.func.value, getattr(node.args[0], "value", None))
            if node.func.attr == "copy" and not node.args:
                return self.resolve(node.func.value)
        return None

    def inside(self, base: ast.AST, key: Any) -> str | None:
        outer = self.resolve(base)
        if outer is None or not isinstance(key, str):
            return None
        return f"{outer}.{key}" if outer else key

    def visit(self, node: ast.AST) -> None:
        key = self.resolve(node)
        if key:
            self.found.add(key)
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Constant):
            self.found |= {k for k in [self.inside(node.comparators[0], node.left.value)] if k}
        targets = [(node.targets[0], node.value)] if isinstance(node, ast.Assign) else \
            [(node.target, node.iter)] if isinstance(node, (ast.For, ast.comprehension)) else []
        for target, value in targets:
            part = self.resolve(value)
            if isinstance(target, ast.Name) and part is not None and target.id not in self.names:
                self.names[target.id] = part
        self.generic_visit(node)


def present(name: str) -> list[str]:
    """A file that came with mmdet 2.26 or later, where this mmdet has it."""
    return [name] if (folder("mmdet") / name).exists() else []


def read_by(package: str, name: str) -> set[str]:
    reads = Reads()
    reads.visit(tree(package, name))
    return reads.found


def arguments(package: str, name: str, function: str, of_class: str | None = None) -> list[str]:
    """The names that a function or a class's ``__init__`` takes."""
    nodes: list[ast.AST] = [tree(package, name)]
    if of_class:
        nodes = [n for n in ast.walk(nodes[0]) if isinstance(n, ast.ClassDef) and n.name == of_class]
    found = [n for top in nodes for n in ast.walk(top) if isinstance(n, ast.FunctionDef) and n.name == function]
    return [a.arg for a in (*found[0].args.args, *found[0].args.kwonlyargs) if a.arg not in OWN_ARGUMENTS]


def looked_up() -> Iterator[str]:
    """All keys, as mmdet 2.x and mmcv 1.x are installed."""
    yield from read_by("mmdet", ".mim/tools/train.py") | read_by("mmdet", ".mim/tools/test.py")
    for name in ("apis/train.py", "utils/setup_env.py", "utils/compat_config.py", "utils/replace_cfg_vals.py",
                 "utils/misc.py", *present("utils/rfnext.py")):
        yield from read_by("mmdet", name)
    loader = {*arguments("mmdet", "datasets/builder.py", "build_dataloader"),
              *arguments("torch", "utils/data/dataloader.py", "__init__", "DataLoader")}
    yield from (f"data.{split}_dataloader.{key}" for split in ("train", "val", "test") for key in loader)
    evaluation = {*arguments("mmcv", "runner/hooks/evaluation.py", "__init__", "EvalHook"),
                  *arguments("mmcv", "runner/hooks/evaluation.py", "__init__", "DistEvalHook"),
                  *arguments("mmdet", "core/evaluation/eval_hooks.py", "__init__", "EvalHook")}
    for name in ("coco", "custom", "lvis", "voc", "cityscapes", "coco_panoptic", "openimages"):
        evaluation |= set(arguments("mmdet", f"datasets/{name}.py", "evaluate"))
    for file in present("datasets/coco_occluded.py"):
        evaluation |= set(arguments("mmdet", file, "evaluate"))
    yield from (f"evaluation.{key}" for key in evaluation)
    runner = {*arguments("mmcv", "runner/base_runner.py", "__init__"), "type", "constructor"}
    yield from (f"runner.{key}" for key in runner)
    saved = {*arguments("mmcv", "runner/hooks/checkpoint.py", "__init__"), "type",
             *arguments("mmcv", "runner/epoch_based_runner.py", "save_checkpoint")}
    yield from (f"checkpoint_config.{key}" for key in saved)
    hooks = arguments("mmcv", "runner/base_runner.py", "register_training_hooks")
    yield from (key for key in hooks if key not in ("timer_config", "custom_hooks_config"))  # not from the config
    yield "custom_imports"  # mmcv.Config reads it itself


def test_every_key_that_mmdet_reads_is_carried_out_refused_or_listed_as_not_used():
    found = set(looked_up())
    assert {"resume_from", "data.train_dataloader.shuffle", "evaluation.save_best", "evaluation.iou_thrs", "gpu_ids",
            "workflow", "checkpoint_config.max_keep_ckpts", "data.val.pipeline", "mp_start_method", "total_epochs",
            "model_wrapper", "auto_scale_lr.base_batch_size"} <= found
    sections = {name.rpartition(".")[0] for name in keys.known()}
    sections |= {part.rpartition(".")[0] for part in sections} | {"data.test_dataloader"}
    assert sorted(key for key in found if keys.verdict(key) is None and key not in sections) == []


def test_the_plan_has_a_line_for_what_a_config_sets_without_effect_and_none_for_what_is_the_same_here(whole):
    whole.update(gpu_ids=[0], work_dir="work_dirs/x", dist_params={"backend": "nccl"}, log_level="INFO",
                 resume_from=None)
    whole["evaluation"] = {"interval": 2, "metric": ["bbox"], "save_best": "auto", "classwise": True}
    whole["checkpoint_config"] = {"interval": 1, "max_keep_ckpts": 3, "save_optimizer": True}
    whole["data"]["val_dataloader"] = {"samples_per_gpu": 2}
    assert set(keys.unused(whole)) == {
        "gpu_ids", "work_dir", "data.val_dataloader", "checkpoint_config.max_keep_ckpts", "evaluation.interval",
        "evaluation.save_best", "evaluation.classwise"}
    whole["data"]["val"] = {**whole["data"]["test"], "ann_file": "other.json"}
    whole["dist_params"] = {"backend": "nccl", "port": 29515}
    whole["log_config"] = {"hooks": [{"type": "TextLoggerHook", "out_dir": "logs", "keep_local": False}]}
    assert {"data.val", "dist_params", "log_config.hooks.0.keep_local"} <= set(keys.unused(whole))


def test_arguments_of_scoring_are_without_effect_where_the_datasets_rule_has_no_such_thing(whole):
    whole["evaluation"] = {"metric": "bbox", "iou_thrs": [0.5], "iou_thr": 0.5, "scale_ranges": None}
    assert set(keys.unused(whole)) == {"evaluation.iou_thr"}
    whole["data"]["test"]["type"] = whole["data"]["val"]["type"] = "LVISV1Dataset"
    assert set(keys.unused(whole)) == {"evaluation.iou_thr", "evaluation.iou_thrs"}
    whole["data"]["test"]["type"] = whole["data"]["val"]["type"] = "VOCDataset"
    assert keys.unused(whole) == {}


@pytest.fixture
def whole() -> dict[str, Any]:
    """A config with all that a training needs, as it is read."""
    data = {"type": "CocoDataset", "ann_file": "val.json", "img_prefix": "val"}
    return {"model": {"type": "FasterRCNN"}, "optimizer": {"type": "SGD", "lr": 0.1}, "lr_config": {"policy": "step"},
            "runner": {"type": "EpochBasedRunner", "max_epochs": 12}, "workflow": [("train", 1)],
            "data": {"samples_per_gpu": 2, "train": dict(data), "val": {**data, "pipeline": []}, "test": data}}


@pytest.mark.parametrize(("options", "said"), [
    ({"workflow": [("train", 1), ("val", 1)]}, r"workflow: .*expected \[\('train', 1\)\]"),
    ({"workflow": [("val", 1)]}, "workflow"),
    ({"runner.type": "MyRunner"}, "runner.type: 'MyRunner'"),
    ({"runner.max_iters": 90}, "max_iters cannot be combined with EpochBasedRunner.*runner.type=IterBasedRunner"),
    ({"runner.max_epochs": 0}, "invalid runner.max_epochs: 0"),
    ({"runner.max_epoch": 3}, "runner: 'max_epoch' is unknown .did you mean max_epochs"),
    ({"runner.constructor": "Mine"}, "runner.constructor is not supported"),
    ({"total_epochs": 3}, "total_epochs is 3 but runner.max_epochs is 12.*--set runner.max_epochs=3"),
    ({"data.train_dataloader": {"samples_per_gpu": 4}}, r"samples_per_gpu is set both in data \(2\).*\(4\)"),
    ({"data.train_dataloader": {"shufle": False}}, "'shufle' is unknown .did you mean shuffle"),
    ({"data.train_dataloader": {"seed": 3}}, "data.train_dataloader.seed is not supported"),
    ({"data.train_dataloader": {"batch_sampler": 3}}, "data.train_dataloader.batch_sampler"),
    ({"data.test_dataloader": {"workers": 3}}, "'workers' is unknown"),
    ({"checkpoint_config.sync_buffer": True}, "SyncBuffersHook"),
    ({"checkpoint_config.type": "MyHook"}, "checkpoint_config.type is not supported"),
    ({"fp16": {}, "optimizer_config.type": "GradientCumulativeOptimizerHook"}, "fp16 and optimizer_config.type"),
    ({"train_cfg": {}, "model.train_cfg": {}}, "train_cfg is set both at the top level and in model"),
    ({"runner": {"type": "IterBasedRunner", "max_iters": 9, "_delete_": True},
      "data.train_dataloader": {"class_aware_sampler": {"num_sample_class": 1}}}, "no effect with IterBasedRunner"),
    ({"mp_start_method": "frok"}, "mp_start_method: 'frok' is unknown .did you mean fork"),
    ({"workflow": [("train", 0)]}, r"invalid workflow: \[\('train', 0\)\]"),
    ({"optimizer": {"_delete_": True, "backbone": {"type": "SGD", "lr": 0.1}}}, "optimizer has no 'type'"),
    ({"lr_config": {"_delete_": True, "type": "StepLrUpdaterHook", "step": [1]}}, "lr_config has no 'policy'"),
    ({"momentum_config": {"type": "StepMomentumUpdaterHook", "step": [1]}}, "momentum_config has no 'policy'"),
    ({"runner": {"type": "IterBasedRunner", "max_iters": 9, "_delete_": True}, "lr_config.warmup_by_epoch": True},
     "lr_config.warmup_by_epoch cannot be combined with IterBasedRunner"),
])
def test_what_cannot_be_carried_out_is_refused_with_the_key_and_the_remedy(whole, options, said):
    with pytest.raises(UserError, match=f"config: .*{said}"):
        keys.refuse(settled.settle(config.apply_options(whole, options)))


@pytest.mark.parametrize("options", [
    {}, {"workflow": [["train", 5]]}, {"data.train_dataloader": {"shuffle": False, "prefetch_factor": 4}},
    {"checkpoint_config": {"type": "CheckpointHook", "sync_buffer": False}},
    {"runner.constructor": "DefaultRunnerConstructor"}, {"total_epochs": 12}, {"lr_config": None},
    {"optimizer": {"_delete_": True, "constructor": "Mine", "backbone": {"type": "SGD", "lr": 0.1}}}])
def test_what_mmdet_takes_and_what_means_the_same_here_is_accepted(whole, options):
    keys.refuse(settled.settle(config.apply_options(whole, options)))


def test_deprecated_spellings_mean_what_they_mean_in_mmdet(whole):
    """Samples, workers and the runner, by mmdet's own compat_cfg and the defaults of its train_detector."""
    compat = pytest.importorskip("mmdet.utils").compat_cfg
    from mmcv import Config

    whole["data"].pop("samples_per_gpu")
    variants: list[dict[str, Any]] = [
        {}, {"data": {"imgs_per_gpu": 3}}, {"data": {"imgs_per_gpu": 3, "samples_per_gpu": 5}},
        {"data": {"workers_per_gpu": 4, "train_dataloader": {"workers_per_gpu": 7}}},
        {"data": {"train_dataloader": {"samples_per_gpu": 6, "workers_per_gpu": 0, "persistent_workers": True}}},
        {"data": {"samples_per_gpu": 1, "persistent_workers": True}}]
    for variant in variants:
        cfg = {**whole, "data": {**whole["data"], **variant.get("data", {})}, "total_epochs": 7}
        del cfg["runner"]
        theirs = compat(Config(cfg))
        ours = settled.settle(cfg)
        wanted = {"samples_per_gpu": 2, "workers_per_gpu": 2, "persistent_workers": False,
                  **theirs.data.train_dataloader}
        assert settled.train_loader(ours["data"]) == wanted, variant
        assert ours["runner"] == theirs.runner


def test_references_to_other_values_are_replaced_as_in_mmdet(whole):
    replace = pytest.importorskip("mmdet.utils").replace_cfg_vals
    from mmcv import Config

    whole.update(size=(32, 16), root="here", inner={"root": "${root}/there"}, also=["${size}", ("${inner.root}", 1)],
                 note="at ${root} and ${runner.max_epochs}")
    assert settled.replace_references(whole) == replace(Config(whole))._cfg_dict.to_dict()
    whole["model_wrapper"] = {"type": "Teacher", "model": "${model}"}
    ours = settled.replace_references(whole)
    assert ours["model"] == {"type": "Teacher", "model": {"type": "FasterRCNN"}} and "model_wrapper" not in ours
    for text, said in (("${nowhere}", "'nowhere', which does not exist"), ("a ${size}", "a tuple")):
        with pytest.raises(UserError, match=said):
            settled.replace_references({**whole, "note": text})


def test_no_key_has_two_verdicts():
    tables = [set(keys.CARRIED_OUT), set(keys.NOT_USED), set(keys.REFUSED)]
    assert sum(map(len, tables)) == len(keys.known())
