"""The config reader against mmcv's own, on mmdet's configs and on made-up ones, and what it says of bad ones."""

from __future__ import annotations

import argparse
import copy
import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecm_cluster.base.errors import UserError
from ecm_cluster.mmconfig import config, literals

ROOT = Path(config.__file__).parents[2]
MMDET = Path(importlib.util.find_spec("mmdet").submodule_search_locations[0]) / ".mim" / "configs"
SHIPPED = sorted(MMDET.rglob("*.py"))
OURS = sorted((ROOT / "configs").rglob("*.py"))

# one folder serves all examples of a test: each rewrites its files
FILES = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def mmcv_reads(path) -> dict:
    from mmcv import Config

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return Config.fromfile(str(path), import_custom_modules=False)._cfg_dict.to_dict()


def write(folder: Path, files: dict[str, str]) -> Path:
    """Write the files; the first is the config itself."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / next(iter(files))


def message(call, *args) -> str:
    with pytest.raises(UserError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- equal to mmcv --------------------------------------------------------------------------------------------


def differing(paths) -> list[str]:
    # the dumped text tells more than ==: order, and 1 from 1.0 and True
    return [str(p) for p in paths if config.dump(config.read(p)) != config.dump(mmcv_reads(p))]


@pytest.mark.slow
def test_a_sample_of_mmdets_configs_reads_as_in_mmcv():
    sample = SHIPPED[::17]
    assert len(sample) > 30
    assert differing(sample) == []


@pytest.mark.slow
def test_every_config_that_mmdet_ships_reads_as_in_mmcv():
    assert len(SHIPPED) > 600
    assert differing(SHIPPED) == []


def test_every_config_of_ours_reads_as_in_mmcv():
    assert len(OURS) > 15
    assert differing(OURS) == []


BASES = {
    "base/model.py": "_base_ = 'deep/er.py'\nmodel = dict(a=dict(x=1, y=[1, (2,)]), b='b', c=[dict(z=1)])\nstep = [8]",
    "base/deep/er.py": "loss = dict(type='L', w=dict(v=1.5))\nn = 3",
    "base/data.json": '{"data": {"root": "r", "names": ["p", "q"]}}',
    "base/more.yaml": "more:\n  - 1e-3\n  - {k: v}\n",
}
SAME_AS_MMCV = {
    "one base": "_base_ = 'base/model.py'\nmodel = dict(a=dict(x=2))\nn = 4",
    "several bases": "_base_ = ['base/model.py', './base/data.json', 'base/more.yaml']\nmodel = dict(c=[1])",
    "an absolute base": "_base_ = '{{ fileDirname }}/base/deep/er.py'",
    "no base": "a = dict(_delete_=True, x=1)",
    "an empty list of bases": "_base_ = []\na = dict(b=dict(_delete_=True))",
    "delete": "_base_ = 'base/model.py'\nmodel = dict(a=dict(_delete_=True, q=0))",
    "delete that is off": "_base_ = 'base/model.py'\nmodel = dict(a=dict(_delete_=False, q=0))",
    "delete of a missing key": "_base_ = 'base/model.py'\nmodel = dict(new=dict(_delete_=True, q=0))",
    "delete of a list": "_base_ = 'base/model.py'\nmodel = dict(c=dict(_delete_=True, q=0))",
    "variables of the file": "a = ['{{ fileBasename }}', '{{fileBasenameNoExtension}}', '{{  fileExtname  }}']\n"
                             "b = '{{ fileDirname }}/x'  # {{ fileDirname }}",
    "variables of a base": "_base_ = ['base/model.py', 'base/data.json']\na = {{ _base_.model.a }}\n"
                           "b = [{{_base_.n}}, ({{ _base_.data.names }}, dict(c={{  _base_.step}}))]",
    "a variable of a base that changes": "_base_ = 'base/model.py'\nold = {{ _base_.model }}\nmodel = dict(b='new')",
    "code": "import os\nimport os.path as osp\nfrom math import pi\nx = [i * pi for i in range(3)]\n"
            "for k in 'ab':\n    x.append(k)\ndef f(y):\n    return dict(y=y)\nz = f(os.sep)\n_hidden = 1\n__gone = 2",
    "a guarded import": "try:\n    import no_such_module\nexcept ImportError:\n    there = False",
    "names from modules": "from pathlib import Path\nfrom math import sqrt\nfrom os.path import join\nx = sqrt(4)",
    "a dataclass": "from dataclasses import dataclass, asdict\n@dataclass\nclass C:\n    x: int = 1\n"
                   "c = asdict(C())\ndel C",
    "a deprecated config": "_deprecation_ = dict(expected='b.py')\na = 1",
    "all kinds of values": "a = [None, True, 1, 1.0, -0.0, 1e300, 'é\\'\"', b'x', (), (1,), {}, {2: 3}, {1, 2}]\n"
                           "b = [float('inf'), -float('inf'), 'a\\nb', r'\\d', 'c' 'd', '''e\nf''']",
}


@pytest.mark.parametrize("name", SAME_AS_MMCV)
def test_each_feature_of_mmcvs_configs_is_read_as_mmcv_does(name, tmp_path):
    bases = {f"sub-folder/{file}": text for file, text in BASES.items()}
    path = write(tmp_path, {"sub-folder/c.py": SAME_AS_MMCV[name], **bases})
    assert config.read(path) == literals.plain(mmcv_reads(path))


TEXT = st.text(max_size=9).map(lambda text: text.replace("\0", "0"))
LEAF = st.one_of(st.none(), st.booleans(), st.integers(-(2**64) + 1, 2**64 - 1), st.floats(allow_nan=False), TEXT,
                 st.binary(max_size=3))
KEY = st.one_of(st.sampled_from("abcd"), TEXT, st.integers(0, 3))


def nested(leaf, key=KEY):
    return st.recursive(leaf, lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple), st.dictionaries(key, inner, max_size=4),
        st.sets(st.integers(0, 9), max_size=3)), max_leaves=12)  # fmt: skip


NAME = st.sampled_from(["model", "data", "optimizer", "x", "_y"])


@FILES
@given(cfg=st.dictionaries(NAME, nested(LEAF), max_size=4))
def test_what_is_dumped_reads_back_the_same_here_and_in_mmcv(cfg, tmp_path):
    text = config.dump(cfg)
    path = write(tmp_path, {"dumped.py": text})
    assert config.read(path) == cfg
    assert config.dump(config.read(path)) == text  # types and order too
    assert config.dump(mmcv_reads(path)) == config.dump(config.read_literals(path)) == text


SMALL = nested(st.integers(0, 2), st.sampled_from(["a", "b", "_delete_"]))
TREES = st.dictionaries(st.sampled_from(["x", "y"]), SMALL, max_size=2)


@FILES
@given(child=TREES, base=TREES, other=TREES)
def test_inheritance_merges_or_refuses_as_mmcv_does(child, base, other, tmp_path):
    path = write(tmp_path, {
        "child.py": "_base_ = ['base.py', 'other.py']\n" + config.dump(child),
        "base.py": config.dump(base), "other.py": config.dump(other)})  # fmt: skip
    try:
        expected = mmcv_reads(path)
    except (TypeError, KeyError):
        assert "child.py:" in message(config.read, path)
    else:
        assert config.dump(config.read(path)) == config.dump(expected)


# --- options --------------------------------------------------------------------------------------------------


def mmcv_parses(text: str):
    from mmcv import DictAction

    parser = argparse.ArgumentParser()
    parser.add_argument("--set", nargs="+", action=DictAction)
    return parser.parse_args(["--set", text]).set


@settings(deadline=None, max_examples=400)
@given(value=st.text(alphabet="a1.,,()[]'\" -e_=", max_size=12) | st.sampled_from(
    ["true", "FALSE", "None", "none", "1_000", "nan", "0x1", "[(1,2),[a,'b c'],d]", "a,b", "(1,)", "inf", "1e-3",
     "(,)' ", "[a,b]' "]))
def test_options_parse_as_mmdets_cfg_options_do(value):
    try:
        expected = mmcv_parses(f"k={value}")
    except (AssertionError, RecursionError):
        assert "brackets" in message(config.parse_option, f"k={value}")
    else:
        assert repr(config.parse_option(f"k={value}")) == repr(("k", expected["k"]))


PATHS = st.lists(st.sampled_from(["a", "b", "0", "1"]), min_size=1, max_size=3).map(".".join)
ANY = nested(st.integers(0, 2), st.sampled_from(["a", "b", "0"]))


@settings(deadline=None, max_examples=150)
@given(cfg=st.dictionaries(st.sampled_from("ab"), ANY), options=st.dictionaries(PATHS, ANY, max_size=3))
def test_options_are_applied_as_mmcv_merges_a_dict(cfg, options):
    from mmcv import Config

    cfg, options = {"top": cfg}, {f"top.{key}": value for key, value in options.items()}
    reference = Config(copy.deepcopy(cfg))
    before = repr((cfg, options))
    try:
        reference.merge_from_dict(copy.deepcopy(options))  # mmcv changes what it is given
    except Exception:
        # mmcv has many ways to fail, and fails at setting an element of a list to what is not a dict; here that works
        try:
            config.apply_options(cfg, options)
        except UserError as error:
            assert str(error).startswith("option ") and "\n" not in str(error)
    else:
        assert config.dump(config.apply_options(cfg, options)) == config.dump(reference._cfg_dict.to_dict())
    assert repr((cfg, options)) == before


def test_an_element_of_a_list_can_be_set_to_a_plain_value():
    cfg = {"data": {"train": {"pipeline": [{"type": "Load"}, {"type": "Flip", "ratio": 0.5}]}, "sizes": [1, 2]}}
    done = config.apply_options(cfg, {"data.train.pipeline.1.ratio": 0.0, "data.sizes.0": 7})
    assert done["data"] == {"train": {"pipeline": [{"type": "Load"}, {"type": "Flip", "ratio": 0.0}]}, "sizes": [7, 2]}


@pytest.mark.parametrize(("options", "said"), [
    ({"model.depth.x": 1}, "model.depth"),
    ({"steps.5": 1}, "invalid index 5; the list has 2"),
    ({"steps.first": 1}, "invalid index 'first'; expected 0 to 1"),
    ({"pair.0": 1}, "pair: is a tuple"),
    ({"model": 1, "model.depth": 2}, "sets all of 'model'"),
    ({"steps.²": 1}, "invalid index '²'; expected 0 to 1"),
])  # fmt: skip
def test_an_option_that_fits_nothing_is_refused_by_its_name(options, said):
    cfg = {"model": {"depth": 50}, "steps": [8, 11], "pair": (1, 2)}
    assert said in message(config.apply_options, cfg, options)


def test_a_key_inside_none_makes_a_dict_of_it_and_an_element_of_a_list_can_be_replaced():
    cfg = {"optimizer_config": {"grad_clip": None}, "hooks": [{"type": "A", "x": 1}]}
    done = config.apply_options(cfg, {"optimizer_config.grad_clip.max_norm": 35, "hooks.0._delete_": True,
                                      "hooks.0.type": "B"})
    assert done == {"optimizer_config": {"grad_clip": {"max_norm": 35}}, "hooks": [{"type": "B"}]}


@pytest.mark.parametrize(("first", "second"), [
    ("a=1", "a=2"), ("a.b=1", "+a.b=2"), ("a=1", "a.b=2"), ("a.b.c=2", "+a.b=1"), ("a.b=[1]", "a.b.0=2")])
def test_two_options_that_contradict_each_other_are_refused_with_both_named(first, second):
    said = message(config.parse_options, [first, "x=3", second])
    assert all(repr(text) in said for text in (first, second)) and "use one of them" in said


def test_options_beside_each_other_and_one_given_twice_alike_are_taken():
    assert config.parse_options(["a.b=1", "a.c=2", "ab=3", "a.b=1"]) == {"a.b": 1, "a.c": 2, "ab": 3}
    assert config.parse_options(["a._delete_=True", "a.b=1"]) == {"a._delete_": True, "a.b": 1}


@pytest.mark.parametrize("text", ["a=dict(type='B',depth=50)", "gpu_ids=range(0,1)", "a=[dict(type=B,x=1)]"])
def test_a_call_in_an_option_is_refused_as_such(text):
    said = message(config.parse_option, text)
    assert "Python code" in said and "one by one" in said


@pytest.mark.parametrize("text", ["model.depth", "=3", ""])
def test_an_option_without_key_and_value_is_refused_with_an_example(text):
    assert "KEY=VALUE" in message(config.parse_option, text)


def test_brackets_that_nest_too_deeply_are_refused():
    assert "option a: brackets nested too deeply" in message(config.parse_option, f"a={'[' * 2000}{']' * 2000}")


# --- writing --------------------------------------------------------------------------------------------------


def test_functions_and_classes_that_a_config_imports_are_not_settings(tmp_path):
    path = write(tmp_path, {"c.py": "from __future__ import annotations\nfrom pathlib import Path\n"
                                    "from math import sqrt\nx = sqrt(4)"})  # fmt: skip
    assert config.dump(config.read(path)) == "x = 2.0\n"


def test_a_value_that_is_not_a_literal_is_refused_by_its_key(tmp_path):
    path = write(tmp_path, {"c.py": "model = dict(a=[1, dict(root=object())])"})
    assert "invalid model.a.1.root: a object" in message(config.read, path)


@pytest.mark.parametrize("name", ["a-b", "class", "__x", "filename", "_base_", 1])
def test_a_name_that_no_config_can_hold_is_refused(name):
    assert repr(name) in message(config.dump, {name: 1})


def test_ranges_paths_and_numpys_numbers_are_written_down_as_what_they_are(tmp_path):
    path = tmp_path / "c.py"
    path.write_text("import numpy as np\nfrom pathlib import Path\n"
                    "gpu_ids = range(0, 1)\nrate = np.float64(0.1)\nepochs = np.int64(3)\non = np.bool_(True)\n"
                    "root = Path('data') / 'coco'\nsteps = [np.float32(0.5)]\n")
    cfg = config.read(path)
    (tmp_path / "d.py").write_text(config.dump(cfg))
    assert config.read(tmp_path / "d.py") == {
        "gpu_ids": range(0, 1), "rate": 0.1, "epochs": 3, "on": True, "root": "data/coco", "steps": [0.5]}
    inside: list = []
    inside.append(inside)
    with pytest.raises(UserError, match="config: invalid x: nested too deeply, or contains itself"):
        config.dump({"x": inside})
    with pytest.raises(UserError, match="invalid thrs: a ndarray .array.* expected a number, a string"):
        config.dump({"thrs": __import__("numpy").arange(3)})


def test_text_that_looks_like_a_placeholder_survives_a_dump(tmp_path):
    cfg = {"a": "{{ fileDirname }}", "b": ["{{ _base_.a }}", "{{{", b"{{fileBasename}}"]}
    path = write(tmp_path, {"c.py": config.dump(cfg)})
    assert config.read(path) == mmcv_reads(path) == cfg


# --- the data root --------------------------------------------------------------------------------------------


def test_all_paths_under_the_data_root_move_and_nothing_else_does():
    cfg = {"data_root": "data/lvis_v1/", "a": ["data/lvis_v1/x.json", ("data/lvis_v1",)], "b": "data_lvis_v1/x",
           "c": {"data/lvis_v1/k": "see data/lvis_v1/"}}  # fmt: skip
    assert config.rewrite_data_root(cfg, "/scratch/lvis") == {
        "data_root": "/scratch/lvis/", "a": ["/scratch/lvis/x.json", ("/scratch/lvis",)], "b": "data_lvis_v1/x",
        "c": {"data/lvis_v1/k": "see data/lvis_v1/"}}  # fmt: skip


def test_a_new_root_may_itself_begin_with_data():
    assert config.rewrite_data_root({"data_root": "data/a"}, "data/b/") == {"data_root": "data/b"}


def test_a_root_beside_the_data_root_is_not_taken_for_it():
    said = message(config.rewrite_data_root, {"data_root": "data/coco", "x": {"ann": "data/coco2/a.json"}}, "/d")
    assert "--set x.ann=/d/coco2/a.json" in said


def test_a_dataset_with_a_data_root_of_its_own_keeps_its_paths():
    cfg = {"data": {"train": {"data_root": "/own/", "ann_file": ["data/a.json", "data/b.json"], "img_prefix": "data/"}}}
    assert config.rewrite_data_root(cfg, "/d") == cfg


def test_paths_without_a_data_root_are_named_as_they_can_be_set():
    cfg = {"data": {"train": {"ann_file": "data/my/a.json", "img_prefix": "./data/my/"}, "val": {"ann_file": "/abs"}}}
    said = message(config.rewrite_data_root, cfg, "/d")
    assert said.endswith("--set data.train.ann_file=/d/my/a.json --set data.train.img_prefix=/d/my/")
    options = dict(config.parse_option(text) for text in said.partition("--set ")[2].split(" --set "))
    moved = config.apply_options(cfg, options)
    assert config.rewrite_data_root(moved, "/d") == moved


def test_configs_of_mmdet_move_whole_or_are_refused():
    refused = []
    for path in {*SHIPPED[::17], MMDET / "pascal_voc" / "faster_rcnn_r50_fpn_1x_voc0712_cocofmt.py"}:
        try:
            moved = config.dump(config.rewrite_data_root(config.read(path), "/scratch"))
        except UserError:
            refused.append(path.name)
        else:
            assert "'data/" not in moved
    assert refused == ["faster_rcnn_r50_fpn_1x_voc0712_cocofmt.py"]


# --- what is wrong with a config ------------------------------------------------------------------------------

WRONG = {
    "torch": ("a = 1\nimport torch\n", "c.py:2: imports torch, ", "custom_imports"),
    "mmcv": ("from mmcv.utils import Config", "c.py:1: imports mmcv.utils, ", "custom_imports"),
    "mmdet in a block": ("if True:\n    import mmdet.apis as m", "c.py:2: imports mmdet.apis, ", "--code"),
    "something missing": ("import os, no_such_module", "c.py:1: imports no_such_module, ", "--code"),
    "a sibling": ("from . import sibling", "c.py:1: imports ., ", "custom_imports"),
    "syntax": ("a = 1\nb = )", "c.py:2: ", "unmatched"),
    "a null byte": ("a = '\0'", "c.py:1: ", "null"),
    "an exception": ("def f():\n    return 1 / 0\na = f()", "c.py:2: ZeroDivisionError", "division"),
    "an exit": ("import sys\nsys.exit('no')", "c.py:2: SystemExit: no", ""),
    "no such base": ("a = 1\n_base_ = [\n  'base/deep/er.py',\n  'gone.py']", "c.py:4: invalid _base_: 'gone.py'", ""),
    "a base that is not a path": ("_base_ = ('a.py', 'b.py')", "c.py:1: invalid _base_: ", "a path or a list"),
    "two bases with one name": ("_base_ = ['base/model.py', 'base/deep/er.py']", "c.py:1: ", "both set"),
    "a dict over a list": ("_base_ = 'base/model.py'\nstep = dict(a=1)", "c.py:2: step: is a list", "_delete_"),
    "a dict over a string": ("_base_ = 'base/model.py'\nmodel = dict(b=dict(q=1))",
                             "c.py:2: model.b: is a str", ""),
    "a base without the value": ("_base_ = 'base/model.py'\na = {{ _base_.model.q }}", "c.py:2: {{ _base_.model.q }}",
                                 "does not exist"),
    "a placeholder in quotes": ("_base_ = 'base/deep/er.py'\na = \"{{ _base_.n }}/x\"", "c.py:2: ", "quotes"),
    "a placeholder in a string": ("_base_ = 'base/deep/er.py'\na = 1\nb = 'n={{ _base_.n }}'",
                                  "c.py:3: ", "invalid use of {{ _base_.n }}"),
    "a placeholder added to": ("_base_ = 'base/deep/er.py'\na = [{{ _base_.n }} + 'x']", "c.py:2: ",
                               "value of its own"),
    "a placeholder without bases": ("a = {{ _base_.n }}", "c.py:1: {{ _base_.n }}", "does not exist"),
    "a name that mmcv reserves": ("filename = 'x'", "c.py: invalid name 'filename'", "reserved by mmcv"),
    "itself as its base": ("_base_ = 'c.py'", "c.py: invalid _base_: cyclic inheritance c.py → c.py", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_faulty_config_is_refused_with_file_line_and_remedy(name, tmp_path):
    text, *said = WRONG[name]
    path = write(tmp_path, {"c.py": text, **BASES})
    got = message(config.read, path)
    assert got.replace("config ", "", 1).startswith(str(tmp_path))
    assert all(part in got for part in said)


def test_a_cycle_of_bases_is_shown_whole(tmp_path):
    path = write(tmp_path, {"c.py": "_base_ = 'd.py'", "d.py": "_base_ = 'e.py'", "e.py": "_base_ = ['d.py']"})
    assert "d.py → e.py → d.py" in message(config.read, path)


@pytest.mark.parametrize(("name", "text"), [("c.json", "{"), ("c.yaml", "a: [1"), ("c.txt", ""), ("c.json", "[1]")])
def test_a_file_that_is_not_a_config_is_refused_by_name(name, text, tmp_path):
    assert name in message(config.read, write(tmp_path, {name: text}))


# --- finding them ---------------------------------------------------------------------------------------------


def test_a_config_that_mmdet_ships_is_found_by_its_name_there():
    name = "mask_rcnn/mask_rcnn_r50_fpn_1x_coco.py"
    assert config.find(f"mmdet::{name}") == MMDET / name
    assert config.read(f"mmdet::{name}")["model"]["type"] == "MaskRCNN"


@pytest.mark.parametrize(("given", "near"), [
    ("configs/ecm/mask_rcn_r50_1x.py", "configs/ecm/mask_rcnn_r50_1x.py"),
    ("elsewhere/mask_rcnn_r50_2x.py", "configs/ecm/mask_rcnn_r50_2x.py"),
    ("mmdet::mask_rcnn/mask_rcnn_r50_fpn_1x.py", "mmdet::mask_rcnn/mask_rcnn_r50_fpn_1x_coco.py"),
    ("zzz", "configs/demo.py"),
])  # fmt: skip
def test_an_unknown_config_is_answered_with_near_ones(given, near):
    assert near in message(config.find, given)


def test_ours_are_found_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = ROOT / "configs" / "ecm" / "mask_rcnn_r50_1x.py"
    assert config.find("configs/ecm/mask_rcnn_r50_1x.py") == config.find("ecm/mask_rcnn_r50_1x.py") == expected
    own = write(tmp_path, {"configs/ecm/mask_rcnn_r50_1x.py": "a = 1"})
    assert config.find("configs/ecm/mask_rcnn_r50_1x.py") == own


def test_the_files_of_a_config_are_itself_and_all_its_bases_once(tmp_path):
    path = write(tmp_path, {"c.py": "_base_ = ['base/model.py', 'base/data.json']", **BASES})
    names = [file.relative_to(tmp_path).as_posix() for file in config.bases(path)]
    assert names == ["c.py", "base/model.py", "base/deep/er.py", "base/data.json"]


def test_it_works_without_any_installed_package():
    # -S leaves out site-packages: no mmcv, numpy, torch or yaml can be found
    program = (
        "from ecm_cluster.mmconfig import config\n"
        "print(config.dump(config.read('configs/ecm/cascade_mask_rcnn_r101_2x.py')))\n"
        "try: config.find('mmdet::mask_rcnn/x.py')\n"
        "except ValueError as error: print(error)\n"
    )
    # PYTHONPATH of the caller would bring the packages back
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-S", "-c", program], env=env, capture_output=True, text=True, check=True)
    text, _, said = done.stdout.rstrip().rpartition("\n")
    assert text == config.dump(config.read("configs/ecm/cascade_mask_rcnn_r101_2x.py"))
    assert "mmdet is not installed here" in said
