"""What is wrong in a config or a ``--set`` is refused with the nearest that would be right, and nothing else is."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecm_cluster.base.errors import UserError
from ecm_cluster.job import job
from ecm_cluster.keycheck import check_keys
from ecm_cluster.mmconfig import config, settled
from ecm_cluster.mmconfig.lookup import paths
from ecm_cluster.plan import planning, variables

ROOT = Path(config.__file__).parents[2]
MMDET = Path(importlib.util.find_spec("mmdet").submodule_search_locations[0]) / ".mim" / "configs"
SHIPPED = sorted(MMDET.rglob("*.py"))
OURS = sorted((ROOT / "configs").rglob("*.py"))
# mmdet itself refuses these when it builds them
BROKEN = {"openimages/ssd300_32x8_36e_openimages.py": "LoadAnnotations has no 'normed_bbox'",
          "objects365/retinanet_r50_fpn_syncbn_1350k_obj365v1.py": "FasterRCNN has no 'bbox_head'",
          "rfnext/rfnext_fixed_multi_branch_cascade_mask_rcnn_hrnetv2p_w18_20e_coco.py": "custom_hooks.0: has no 'ty"}


@pytest.fixture(scope="module")
def demo():
    return settled.replace_references(config.read("configs/demo.py"))


@pytest.fixture(scope="module")
def coco():
    """A config with SGD, hooks and an epoch's schedule, as mmdet ships it."""
    return settled.replace_references(config.read("mmdet::mask_rcnn/mask_rcnn_r50_fpn_1x_coco.py"))


def refused(base, *options, code=None, release=None) -> str | None:
    """What is said of options, given as on the command line; None: nothing."""
    given_options = dict(map(config.parse_option, options))
    try:
        cfg = config.apply_options(base, given_options)
        check_keys.refuse(base, cfg, given_options, code, release)
    except UserError as error:
        assert "\n" not in str(error)
        return str(error)
    return None


def test_a_key_that_nothing_reads_is_refused_with_the_nearest_that_is_read(coco):
    for option, near in {
        "lr=0.01": "did you mean optimizer.lr?",
        "optimizer.lrr=0.01": "SGD has no 'lrr'; did you mean lr?",
        "optimizr.lr=0.01": "did you mean optimizer",
        "data.train.pipelin.0.to_float32=True": "did you mean pipeline?",
        "data.train.pipeline.0.to_float=True": "did you mean to_float32",
        "model.roi_head.bbox_head.num_class=3": "did you mean num_classes?",
        "model.num_classes=3": "did you mean model.roi_head.bbox_head.num_classes, model.roi_head.mask_head",
        "data.samples_per_gp=4": "did you mean samples_per_gpu",
        "data.train_dataloader.shufle=False": "did you mean shuffle?",
        "evaluation.interva=1": "did you mean interval?",
        "evaluation.clas_wise=True": "did you mean classwise?",
        "custom_hooks.0.priorty=1": "NumClassCheckHook has no 'priorty'; did you mean priority?",
        "log_config.hooks.0.intervall=1": "did you mean interval",
        "log_config.intervall=1": "did you mean interval?",
        "lr_config.warmup_iter=1": "lr_config with policy 'step' has no 'warmup_iter'; did you mean warmup_iters",
        "runner.max_epoch=1": "did you mean max_epochs",
        "checkpoint_config.intervall=1": "did you mean interval?",
        "fp16.loss_scal=1": "did you mean loss_scale?",
        "optimizer_config.grad_clp=1": "did you mean grad_clip?",
        "optimizer.paramwise_cfg.norm_decay=0": "did you mean norm_decay_mult",
        "auto_scale_lr.enabled=True": "did you mean enable?",
        "model.train_cfg.rcnn.sampler.nums=3": "RandomSampler has no 'nums'; did you mean num?",
        "model.test_cfg.rcnn.score_thresh=0.1": "did you mean score_thr",
        "model.test_cfg.rcnn.nms.iou_treshold=0.1": "did you mean iou_threshold",
        "model.backbone.init_cfg.checkpint=x": "did you mean checkpoint?",
    }.items():
        said = refused(coco, option)
        assert said and said.startswith("option ") and near in said, (option, said)
        key = option.partition("=")[0]
        assert "sets it unchecked" in said
        assert refused(coco, "+" + option) is None, key


def test_a_plus_sets_a_key_that_neither_the_config_nor_the_class_knows(demo):
    option = dict([config.parse_option("+model.backbone.my_new=3")])
    assert config.apply_options(demo, option)["model"]["backbone"]["my_new"] == 3
    assert refused(demo, "model.backbone.my_new=3") and refused(demo, "+model.backbone.my_new=3") is None
    assert refused(demo, "+model.backbone.my_new=3", "model.backbone.my_nem=3"), "the plus is for one key"


@pytest.mark.parametrize(("option", "expected"), [
    ("optimizer.lr=-1", "a number, 0 or more"), ("optimizer.lr=inf", "a number, 0 or more"),
    ("optimizer.lr=1e400", "a number, 0 or more"), ("optimizer.weight_decay=-0.1", "a number, 0 or more"),
    ("data.samples_per_gpu=0", "an integer, 1 to 65536"),
    ("data.samples_per_gpu=10000000000", "an integer, 1 to 65536"),
    ("data.workers_per_gpu=-1", "an integer, 0 to 4096"), ("data.workers_per_gpu=1000000", "an integer, 0 to 4096"),
    ("data.test_dataloader.samples_per_gpu=0", "an integer, 1 to 65536"),
    ("runner.max_epochs=-1", "an integer, 1 or more"),
    ("runner.max_epochs=9999999999", "an integer, 1 or more"),
    ("auto_scale_lr.base_batch_size=-1", "an integer, 1 or more"),
    ("lr_config.step=-5", "an integer, 1 or more"), ("lr_config.step=[8,-1]", "an integer, 1 or more"),
    ("lr_config.step=[8.5,11]", "an integer, 1 or more"), ("lr_config.warmup_iters=-1", "an integer, 1 or more"),
    ("lr_config.warmup_ratio=2.0", "a number, 1e-12 to 1"),
    ("optimizer_config.grad_clip.max_norm=-1", "a positive number"),
    ("data.train.oversample_thr=-1", "a number, 0 or more"),
    ("model.roi_head.bbox_head.num_classes=0.5", "an integer, 1 or more"),
    ("model.roi_head.mask_head.num_classes=0", "an integer, 1 or more"),
    ("data.samples_per_gpu=" + "9" * 900, "65536")])
def test_a_number_that_no_training_can_have_is_refused_however_it_is_set(demo, option, expected):
    for plus in ("", "+"):
        said = refused(demo, plus + option)
        assert said and option.partition("=")[0] in said and "invalid value" in said and expected in said


def test_a_plus_leaves_the_kinds_of_what_this_program_itself_reads_checked(demo):
    for option, said in {
        "+data=3": "option +data: invalid value 3; expected a dict", "+workflow=3": "a list",
        "+workflow=[3]": "expected a mode and a number", "+workflow=[[train]]": "expected a mode and a number",
        "+custom_imports=[a]": "a dict", "+custom_imports.imports=3": "a string or a list", "+runner=3": "a dict",
        "+data.train_dataloader=3": "a dict", "+data.samples_per_gpu=abc": "an integer", "+optimizer=3": "a dict",
        "+checkpoint_config.interval=abc": "an integer", "+auto_scale_lr.base_batch_size=abc": "an integer",
        "+model=MaskRCNN": "a dict", "+load_from=3": "a string", "+data_root=3": "a string",
    }.items():
        found = refused(demo, option)
        assert found and found.startswith("option +") and said in found, (option, found)
    assert refused(demo, "+optimizer.betas=abc", "+model.roi_head=3", "+data.new=3", "+runner.max_keep=1") is None


def test_a_key_that_the_class_accepts_need_not_be_in_the_config(coco):
    assert refused(coco, "optimizer.nesterov=True", "model.backbone.with_cp=True", "lr_config.min_lr=0.001",
                   "data.train.filter_empty_gt=False", "data.train.pipeline.1.poly2mask=False", "fp16.loss_scale=512.",
                   "optimizer_config.grad_clip.max_norm=35",
                   "optimizer_config.grad_clip._delete_=True", "evaluation.classwise=True",
                   "find_unused_parameters=True",
                   "custom_hooks.0.priority=VERY_LOW", "model.test_cfg.rcnn.nms.class_agnostic=True",
                   "data.train_dataloader.shuffle=False", "model.init_cfg.type=Pretrained",
                   "model.init_cfg.checkpoint=x.pth", "seed=3", "optimizer.paramwise_cfg.bias_lr_mult=2.") is None


def test_a_part_of_a_model_without_a_type_is_refused(coco):
    for option in ("model.neck.norm_cfg.requires_grad=True", "model.roi_head.shared_head.depth=50",
                   "model.backbone.dcn.deform_groups=1", "model.neck.act_cfg.inplace=True"):
        key = option.rpartition(".")[0]
        assert f"option {key}: has no 'type'; expected the name of a class" in refused(coco, option), option
    wrong = copy.deepcopy(coco)
    del wrong["model"]["roi_head"]["bbox_roi_extractor"]["roi_layer"]["type"]
    assert "config: model.roi_head.bbox_roi_extractor.roi_layer: has no 'type'" in refused(wrong)
    for part in ("backbone", "neck", "rpn_head"):
        wrong = copy.deepcopy(coco)
        wrong["model"][part] = "resnet50"
        assert f"config: model.{part}: invalid value 'resnet50'; expected a list or a dict" in refused(wrong)
    assert refused(coco, "+model.roi_head=[3]") is None


def test_a_block_without_a_type_and_a_training_without_transforms_are_refused(coco):
    assert "option model.backbone: no longer has a 'type'" in refused(coco, "model.backbone._delete_=True")
    assert "option optimizer: no longer has a 'type'" in refused(coco, "optimizer._delete_=True")
    coco = copy.deepcopy(coco)
    coco["custom_hooks"] = [{"interval": 3}]
    assert "config: custom_hooks.0: has no 'type'; expected the name of a class" in refused(coco)
    coco["custom_hooks"] = []
    coco["data"]["train"]["pipeline"] = []
    assert "config: data.train.pipeline: is empty; expected the transforms" in refused(coco)


def test_numbers_of_numpy_are_numbers(coco):
    coco = copy.deepcopy(coco)
    coco["runner"]["max_epochs"], coco["optimizer"]["lr"] = np.int64(2), np.float32(0.5)
    assert refused(coco) is None


def test_a_value_that_a_key_cannot_have_is_refused(coco):
    for option, said in {
        "optimizer.lr=abc": "option optimizer.lr: invalid value 'abc'; expected a number",
        "optimizer.lr=None": "expected a number", "optimizer.lr=[0.1,0.2]": "expected a number",
        "runner.max_epochs=two": "expected an integer", "runner.max_epochs=1.5": "expected an integer",
        "data.samples_per_gpu=[1]": "expected an integer", "data.workers_per_gpu=None": "expected an integer",
        "model=3": "expected a dict", "data=[1]": "expected a dict", "optimizer=SGD": "expected a dict",
        "model.backbone=ResNet": "a dict", "model.roi_head.bbox_head.loss_cls=3": "a dict",
        "model.backbone.depth=deep": "an integer", "model.backbone.norm_eval=yes": "expected True or False",
        "model.backbone.frozen_stages=all": "an integer",
        "data.train.pipeline=3": "a list", "data.train.ann_file=3": "a string", "custom_hooks=3": "a list",
        "custom_hooks.0=NumClassCheckHook": "expected a dict", "data.train.pipeline.0=3": "expected a dict",
        "model.backbone.depth=[50]": "an integer", "model.backbone.depth=50.5": "an integer",
        "model.pretrained=3": "a string",
        "model.backbone=None": "a list or a dict", "lr_config.step=[soon,later]": "expected numbers",
        "lr_config=3": "expected a dict", "lr_config.step=soon": "a list", "log_config.interval=x": "an integer",
        "load_from=3": "a string", "workflow=train": "a list", "workflow.0=1": "expected a mode and a number",
        "model.test_cfg.rcnn.score_thr=high": "a number",
        "optimizer_config.grad_clip=5": "a dict", "data.train.type=3": "expected the name of a class",
        "optimizer.lr=nan": "invalid value nan; expected a number", "model.backbone.init_cfg=3": "a list or a dict",
        "optimizer={'type':1}": "set its keys one by one", "log_config.hooks=[dict(type='A')]": "one by one",
        "checkpoint_config.interval=None": "an integer", "checkpoint_config.interval=2.5": "an integer",
        "lr_config.warmup=linaer": "invalid value 'linaer'; expected one of constant, linear, exp",
        "fp16.loss_scale=dynamics": "a float, a dict or 'dynamic'", "fp16.loss_scale=512": "give 512.0",
        "custom_hooks.0.priority=SOMETIMES": "expected one of HIGHEST, VERY_HIGH",
        "custom_hooks.0.priority=101": "0 to 100", "log_config.hooks.0.priority=-1": "0 to 100",
        "evaluation.metric=3": "a string or a list", "seed=abc": "an integer", "momentum_config.step.0=3": "policy",
    }.items():
        found = refused(coco, option)
        assert found and said in found, (option, found)
    assert refused(coco, "optimizer.lr=1", "runner.max_epochs=3", "lr_config.step=3", "model.backbone.norm_eval=0",
                   "optimizer_config.grad_clip=None", "evaluation.metric=bbox", "load_from=None",
                   "model.roi_head.bbox_head.roi_feat_size=(7,7)", "model.neck=None", "fp16.loss_scale=512.",
                   "custom_hooks.0.priority=very_low", "lr_config.warmup=exp") is None
    assert refused(coco, "fp16.loss_scale=dynamic", "custom_hooks.0.priority=100", "lr_config.warmup=None",
                   "fp16.grad_clip.max_norm=35") is None


def test_a_type_that_is_not_registered_is_refused_with_the_nearest(coco):
    for option, said in {
        "model.backbone.type=ResNett": "mmdet has no class 'ResNett'; did you mean ResNet",
        "model.backbone.norm_cfg.type=BNN": "did you mean BN?",
        "model.backbone.norm_cfg.type=ReLU": "ReLU cannot replace BN: it is in the registry activation, not norm",
        "data.train.type=CocoDatset": "did you mean CocoDataset",
        "data.train.type=ResNet": "no class 'ResNet' in the registry dataset, only in models",
        "data.train.pipeline.2.type=Resiz": "did you mean Resize",
        "log_config.hooks.0.type=TextLoggerHok": "did you mean TextLoggerHook",
        "optimizer.type=Sgd": "did you mean SGD",
        "optimizer.constructor=DefaultConstructor": "did you mean DefaultOptimizerConstructor",
        "lr_config.policy=stepp": "unknown policy 'stepp'; did you mean Step?",
        "model.roi_head.bbox_head.loss_cls.type=CrossEntropy": "did you mean CrossEntropyLoss",
    }.items():
        found = refused(coco, option)
        assert found and said in found, (option, found)


def test_arguments_of_the_earlier_type_are_named_with_the_way_to_drop_them(coco):
    said = refused(coco, "model.backbone.type=SwinTransformer")
    assert "SwinTransformer has no 'depth'" in said and "--set model.backbone._delete_=True" in said
    assert refused(coco, "model.backbone.type=SwinTransformer", "model.backbone._delete_=True") is None
    assert refused(coco, "optimizer.type=AdamW", "optimizer._delete_=True", "optimizer.lr=1e-4") is None
    said = refused(coco, "data.train.pipeline.2.type=RandomCrop")
    assert "RandomCrop has no 'img_scale'" in said and "--set data.train.pipeline.2._delete_=True" in said
    assert refused(coco, "data.train.pipeline.2.type=RandomCrop", "data.train.pipeline.2._delete_=True",
                   "data.train.pipeline.2.crop_size=(64,64)") is None
    said = refused(coco, "lr_config.policy=CosineAnnealing")
    assert "has no 'step'; it belongs to the previous policy" in said and "--set lr_config._delete_=True" in said


def test_setting_a_variable_of_the_config_changes_nothing_and_is_refused(coco):
    said = refused(coco, "train_pipeline.2.img_scale=(400,300)")
    assert "train_pipeline is a variable" in said and "did you mean data.train.pipeline.2.img_scale?" in said
    assert "is a variable" in refused(coco, "dataset_type=LVISV1Dataset")
    assert "did you mean data.train.pipeline.4.mean" in refused(coco, "img_norm_cfg.mean=[0,0,0]")


def test_every_mistake_is_named_the_first_with_its_remedy(coco):
    said = refused(coco, "optimizer.lrr=1", "data.samples_per_gp=2", "model.backbone.dept=3")
    assert "did you mean depth" in said and said.endswith("also wrong: data.samples_per_gp, optimizer.lrr")


def test_a_mistake_in_the_config_itself_is_refused_alike(coco):
    wrong = copy.deepcopy(coco)
    wrong["model"]["backbone"]["dept"] = 50
    assert "config: model.backbone.dept: ResNet has no 'dept'; did you mean depth" in refused(wrong)
    assert refused(wrong, "+model.backbone.dept=50") is None
    wrong = copy.deepcopy(coco)
    wrong["optimzer"] = wrong.pop("optimizer")
    assert "config: optimzer is not read by mmdet; did you mean optimizer?" in refused(wrong)


OWN = '''
from mmdet.models import HEADS, StandardRoIHead

@HEADS.register_module()
class MyHead(StandardRoIHead):
    def __init__(self, mine=3, **kwargs):
        super().__init__(**kwargs)

@HEADS.register_module(force=True)
class FPN:
    pass
'''


def test_a_class_of_the_users_own_is_not_checked_and_a_misspelt_one_is(coco, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "heads.py").write_text(OWN)
    wanted = copy.deepcopy(coco)
    wanted["model"]["roi_head"].update(type="MyHead", mine=4)
    assert "mmdet has no class 'MyHead'" in refused(wanted, code=str(tmp_path)), "nothing imports it"
    wanted["custom_imports"] = {"imports": ["own.heads"]}
    assert refused(wanted, code=str(tmp_path)) is None
    assert refused(wanted, "model.roi_head.other=3", code=str(tmp_path)) is None
    assert "did you mean MyHead" in refused(wanted, "model.roi_head.type=MyHed", code=str(tmp_path))
    assert "did you mean depth" in refused(wanted, "model.backbone.dept=3", code=str(tmp_path))
    assert refused(wanted, "model.neck.theirs=3", code=str(tmp_path)) is None, "FPN is theirs now"
    (tmp_path / "code.py").write_text("class InCode: pass")
    wanted["custom_imports"] = {"imports": ["own.heads", "code", "os.path"]}
    assert refused(wanted, "model.roi_head.type=InCode", code=str(tmp_path)) is None, "in place of the library's"
    assert "did you mean MyHead" in refused(wanted, "model.roi_head.type=MyHed", code=str(tmp_path))
    wanted["custom_imports"] = {"imports": ["installed_somewhere"]}
    assert refused(wanted, "model.roi_head.type=Anything", code=str(tmp_path)) is None


def test_what_a_release_of_mmdet_lacks_is_refused_for_it(coco):
    assert refused(coco, "data.train.seg_suffix=.png", release="2.28.2") is None
    assert "has no 'seg_suffix'" in refused(coco, "data.train.seg_suffix=.tif", release="2.25.2")


def wrong_among(files) -> dict[str, str]:
    found = {}
    for path in files:
        cfg = settled.replace_references(config.read(path))
        said = refused(cfg)
        assert variables.warnings(cfg, config.bases(path)) == []
        if said:
            found[path.as_posix().replace(f"{MMDET.as_posix()}/", "")] = said
    return found


def test_every_config_of_ours_passes():
    assert wrong_among(path for path in OURS) == {}


@pytest.mark.slow
def test_every_config_that_mmdet_ships_passes_but_those_that_it_cannot_build():
    found = wrong_among(SHIPPED)
    assert found.keys() == BROKEN.keys(), found
    assert all(BROKEN[name] in said for name, said in found.items())


@pytest.mark.slow
def test_mmdet_itself_cannot_build_those():
    from mmcv import ConfigDict
    from mmcv.runner import HOOKS
    from mmdet.datasets import PIPELINES
    from mmdet.models import build_detector

    ssd, retina, rfnext = (ConfigDict(config.read(MMDET / name)) for name in BROKEN)
    with pytest.raises(TypeError, match="normed_bbox"):
        PIPELINES.build(ssd.data.train.dataset.pipeline[1])
    with pytest.raises(TypeError, match="bbox_head"):
        build_detector(retina.model)
    with pytest.raises(KeyError, match='must contain the key "type"'):
        HOOKS.build(rfnext.custom_hooks[0])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text("ab.+=[(0", max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab0", max_size=2), inner, max_size=2),
    max_leaves=4)
KEYS = sorted(key for key, _ in paths(settled.replace_references(config.read("configs/demo.py"))))
FUZZ = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(options=st.dictionaries(
    st.sampled_from(KEYS) | st.builds("{}.{}".format, st.sampled_from(KEYS), st.text("ab0._", max_size=3))
    | st.builds("+{}".format, st.sampled_from(KEYS)) | st.text("abm.+0", max_size=4), VALUES, min_size=1, max_size=3))
def test_no_option_gives_a_traceback(small_data, options):
    try:
        planning.make(job.make({"config": "configs/demo.py", "device": "cpu", "data_root": str(small_data),
                                "options": options}), "local")
    except UserError as error:
        assert "\n" not in str(error)


@FUZZ
@given(key=st.sampled_from([key for key in KEYS if key.count(".") < 4]), value=VALUES)
def test_no_config_gives_a_traceback(small_data, tmp_path, key, value):
    try:
        cfg = config.apply_options(config.read("configs/demo.py"), {f"+{key}": value})
        (tmp_path / "wrong.py").write_text(config.dump(cfg))
        planning.make(job.make({"config": str(tmp_path / "wrong.py"), "device": "cpu", "data_root": str(small_data)}),
                      "local")
    except UserError as error:
        assert "\n" not in str(error)
