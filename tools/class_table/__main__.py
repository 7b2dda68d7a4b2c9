"""Makes ``ecm_cluster/mmclasses/classes.txt``: what each class that a config can name accepts.

Reads the installed mmdet, mmcv, torch and mmdet_ext: ``python -m tools.class_table``. ``--sources`` also takes
folders of unpacked source distributions of other mmdet 2.x releases: what only some of them have is marked with the
releases that lack it. A test holds the table equal to what is installed.
"""

from __future__ import annotations

import argparse
import ast
import gc
import inspect
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .signatures import arguments

OUT = Path(__file__).resolve().parents[2] / "ecm_cluster" / "mmclasses" / "classes.txt"
OPEN = "**"  # stands behind the arguments of a class that may take others as well
REGISTRIES = {  # as mmcv and mmdet call them: the section of the table
    "models": "models", "conv layer": "conv", "norm layer": "norm", "activation layer": "activation",
    "padding layer": "padding", "upsample layer": "upsample", "plugin layer": "plugin", "drop out layers": "dropout",
    "position encoding": "positional_encoding", "attention": "attention", "feed-forward Network": "ffn",
    "transformerLayer": "transformer_layer", "transformer-layers sequence": "transformer_sequence",
    "Transformer": "transformer", "linear layers": "linear", "Generator for anchors and points": "prior_generator",
    "bbox_assigner": "assigner", "bbox_sampler": "sampler", "bbox_coder": "coder", "IoU calculator": "iou_calculator",
    "Match Cost": "match_cost", "initializer": "initializer", "dataset": "dataset", "pipeline": "pipeline",
    "hook": "hook", "runner": "runner", "optimizer": "optimizer", "optimizer builder": "constructor"}
BESIDE_ARGUMENTS = {"norm": "requires_grad:b", "hook": "priority:is", "initializer": "override:dl",
                    "optimizer": "paramwise_cfg:dn constructor:s", "dataset": "separate_eval:b"}
EXACTLY = {"dataset": "pipeline:l datasets:l dataset:dl", "pipeline": "transforms:l policies:l"}
# passed by the caller
GIVEN = {"optimizer": "params", "evaluate": "results", "ops": "boxes scores", "EvalHook": "dataloader"}
# names that no signature tells: a class hands its **kwargs to a function that is known, and ignores the rest
BEHIND: dict[str, str] = {
    "CheckpointHook": "create_symlink filename_tmpl meta",  # runner.save_checkpoint
    "MultiheadAttention": "bias add_bias_kv add_zero_attn kdim vdim device dtype",  # torch's
    "BaseTransformerLayer": "feedforward_channels ffn_dropout ffn_num_fcs",
    "DetrTransformerDecoderLayer": "",
    "NonLocal2d": "", "Mask2FormerHead": "strides",  # which configs set, and it ignores
    # what builders take out of the block before the class sees the rest
    "DCN": "fallback_on_stride", "DCNv2": "fallback_on_stride", "deconv": "scale_factor upsample_kernel",
    "nearest": "scale_factor", "bilinear": "scale_factor", "CrossEntropyLoss": "bg_cls_weight",
    **dict.fromkeys(("nms", "soft_nms", "nms_match"), "class_agnostic split_thr score_threshold max_num"),
    "CombinedSampler": "num pos_fraction neg_pos_ub add_gt_as_proposals rng"}


def collect() -> dict[str, dict[str, list[str]]]:
    """Section → type → arguments as they stand in the table, of everything that is registered here."""
    import mmcv
    import mmcv.ops

    mmcv.__version__ = "1.6.0"  # which all releases of mmdet accept; the classes are the same
    import mmdet.core
    import mmdet.datasets
    import mmdet.models
    import torch
    from mmcv.utils import Registry

    import mmdet_ext.register

    assert mmdet.core and mmdet.datasets and mmdet.models and mmdet_ext.register  # importing them registers
    found: dict[str, dict[str, Any]] = {}
    for registry in (o for o in gc.get_objects() if type(o) is Registry):
        section = REGISTRIES.get(registry.name)
        if section:
            found.setdefault(section, {}).update(registry.module_dict)
    found["hook"]["EvalHook"] = mmdet.core.EvalHook
    registered = {name for by_name in found.values() for name in by_name}
    found["ops"] = {name: item for name, item in vars(mmcv.ops).items() if name in ("nms", "soft_nms", "nms_match") or (
        inspect.isclass(item) and issubclass(item, torch.nn.Module) and name not in registered)}
    found["evaluate"] = {name: cls.evaluate for name, cls in found["dataset"].items() if hasattr(cls, "evaluate")}
    table = {section: {name: line(section, name, target) for name, target in sorted(classes.items())}
             for section, classes in sorted(found.items())}
    counted = {name: count for section in ("models", "plugin") for name, cls in sorted(found.get(section, {}).items())
               if (count := number_of_classes(cls))}
    return {**table, "cfg": {"cfg": cfg_keys(Path(mmdet.__file__).parent)}, "num_classes": counted}


def number_of_classes(cls: Any) -> list[str]:
    """The arguments that make up ``num_classes`` of a module that ``NumClassCheckHook`` compares, with defaults."""
    names = {base.__name__ for base in inspect.getmro(cls)}
    # the semantic head of PanopticFPN has stuff and one class for all things, and its configs do without the hook
    if names & {"RPNHead", "VGG", "FusedSemanticHead", "GARPNHead", "BaseSemanticHead"}:
        return []
    accepted = arguments(cls)[0]
    wanted = next((several for several in (["num_classes"], ["num_things_classes", "num_stuff_classes"])
                   if set(several) <= accepted.keys()), [])
    sets_it = any(re.search(r"self\.num_classes = ", inspect.getsource(vars(base)["__init__"]))
                  for base in inspect.getmro(cls) if base.__module__.startswith("mmdet")
                  and "__init__" in vars(base))
    return [f"{arg}:{default}" if (default := default_of(cls, arg)) is not None else arg
            for arg in wanted] if sets_it else []


def default_of(cls: Any, arg: str) -> int | None:
    """The default of an argument, in the first ``__init__`` that names it."""
    for base in inspect.getmro(cls):
        parameters = inspect.signature(vars(base)["__init__"]).parameters if "__init__" in vars(base) else {}
        if arg in parameters:
            value = parameters[arg].default
            return value if type(value) is int else None
    return None


def cfg_keys(mmdet: Path) -> list[str]:
    """Names that mmdet's models look up in their ``train_cfg`` and ``test_cfg``, at any depth."""
    found = set()
    for path in sorted([*(mmdet / "models").rglob("*.py"), *(mmdet / "core").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            holder = getattr(node, "func", node)
            name: Any = None
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                holder, name = node.value, node.slice.value
            elif isinstance(node, ast.Call) and isinstance(holder, ast.Attribute) and node.args \
                    and holder.attr in ("get", "pop") and isinstance(node.args[0], ast.Constant):
                holder, name = holder.value, node.args[0].value
            elif isinstance(node, ast.Compare) and isinstance(node.left, ast.Constant):
                holder, name = node.comparators[0], node.left.value
            elif isinstance(node, ast.Attribute):
                holder, name = node.value, node.attr
            held = ast.unparse(holder)
            if isinstance(name, str) and re.search(r"(train|test|rcnn|rpn|proposal|^)_?cfg(\.\w+)*$", held) \
                    and name not in dir(dict):
                found.add(name)
    return sorted(found)


def line(section: str, name: str, target: Any) -> list[str]:
    """The arguments of a class as they stand in the table."""
    accepted, is_open = arguments(target, strict=section in ("optimizer", "runner"))
    accepted.update(dict(word.split(":") for word in BESIDE_ARGUMENTS.get(section, "").split()))
    accepted.update({arg: kinds for arg, kinds in (word.split(":") for word in EXACTLY.get(section, "").split())
                  if arg in accepted})
    if name in BEHIND:
        accepted.update({extra: "" for extra in BEHIND[name].split() if extra not in accepted})
        is_open = False
    for given in ["self", *GIVEN.get(section, "").split(), *GIVEN.get(name, "").split()]:
        accepted.pop(given, None)
    return [f"{arg}:{kinds}" if kinds else arg for arg, kinds in accepted.items()] + [OPEN] * is_open


def merged(tables: dict[str, dict[str, dict[str, list[str]]]]) -> list[str]:
    """The lines of one table for several releases of mmdet, oldest first."""
    releases = list(tables)
    lines = []
    for section in sorted({s for table in tables.values() for s in table}):
        lines.append(f"[{section}]")
        classes = {r: table.get(section, {}) for r, table in tables.items()}
        for name in sorted({n for by_name in classes.values() for n in by_name}):
            having = [r for r in releases if name in classes[r]]
            words: dict[str, dict[str, str]] = {}
            for release in having:
                for word in classes[release][name]:
                    arg, _, kinds = word.partition(":")
                    words.setdefault(arg, {})[release] = kinds
            inner = [arg + _kinds(by.values()) + _span(list(by), having) for arg, by in words.items()]
            lines.append(" ".join([name + _span(having, releases), *inner]))
    return lines


def _kinds(all_kinds: Iterable[str]) -> str:
    some = list(all_kinds)
    if len(set(some)) == 1:
        return f":{some[0]}" if some[0] else ""
    return ":" + "".join(sorted(set("".join(some)))) if all(some) else ""


def _span(having: list[str], releases: list[str]) -> str:
    """``@2.26.0-`` for what came with that release, ``@-2.27.0`` for what went after that one."""
    first = having[0] if having[0] != releases[0] else ""
    last = having[-1] if having[-1] != releases[-1] else ""
    return f"@{first}-{last}" if first or last else ""


def of_sources(folder: Path) -> tuple[str, dict[str, dict[str, list[str]]]]:
    """(release, table) of an unpacked source distribution of mmdet."""
    version = runpy.run_path(str(folder / "mmdet" / "version.py"))["__version__"]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-m", "tools.class_table", "--json"], cwd=root, check=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(root)])},
                          stdout=subprocess.PIPE)
    return version, json.loads(done.stdout)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print the table of what is installed as JSON")
    parser.add_argument("--sources", type=Path, nargs="*", default=[], help="unpacked sources of releases of mmdet")
    args = parser.parse_args(argv)
    if args.json:
        print(json.dumps(collect()))
        return
    tables = dict(map(of_sources, args.sources)) or {"": collect()}
    tables = {release: tables[release] for release in sorted(tables)}
    import mmcv
    import torch

    head = [f"# made by `python -m tools.class_table` from mmdet {' '.join(tables)}, mmcv {mmcv.__version__}, "
            f"torch {torch.__version__.split('+')[0]}", "# TYPE ARGUMENT[:KINDS][@SINCE-UNTIL] …; classes.py reads it"]
    OUT.write_text("\n".join([*head, *merged(tables)]) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
