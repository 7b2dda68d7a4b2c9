"""Makes ``ecm_cluster/mmconfig/classes.txt``: what each class that a config can name accepts.

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
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

OUT = Path(__file__).resolve().parents[1] / "ecm_cluster" / "mmconfig" / "classes.txt"
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
# names behind **kwargs that no signature tells: the class hands them to a function that is known
BEHIND = {
    "CheckpointHook": "create_symlink filename_tmpl meta",  # runner.save_checkpoint
    "MultiheadAttention": "bias add_bias_kv add_zero_attn kdim vdim device dtype",  # torch's
    "BaseTransformerLayer": "feedforward_channels ffn_dropout ffn_num_fcs",
    "DetrTransformerDecoderLayer": "",
    "NonLocal2d": "",
    "CombinedSampler": "num pos_fraction neg_pos_ub add_gt_as_proposals rng"}
# words of docstrings, longest first, and the kinds of values that they mean
KINDS = [
    (r"none", "n"), (r"bool(ean)?", "b"), (r"ints?|integers?", "i"), (r"floats?|numbers?|scalar", "f"),
    (r"str(ings?)?|path", "s"), (r"config_?dict|dicts?|dictionary|mapping|config|optional\[dict\]", "d"),
    (r"lists?|tuples?|sequence|iterable|array|ndarray|np\.ndarray|iterator", "l"),
    (r"optional|or|of|and|the|a|torch|nn|obj|object|class|default|defaults|mmcv|mmdet|tensor|torch\.tensor|callable|"
     r"function|required|kept|float32", "")]


def kinds_of_words(text: str) -> str | None:
    """The kinds that a docstring's ``(int | list[int], optional)`` admits; None where a word is not understood."""
    while re.search(r"\[[^\[\]]*\]|\([^()]*\)|<[^<>]*>", text):
        # what a list holds says nothing of the list; a bare pair of brackets is a list
        text = re.sub(r"(?<=\w)\s*\[[^\[\]]*\]", "", text) if re.search(r"\w\s*\[[^\[\]]*\]", text) else \
            re.sub(r"\[[^\[\]]*\]|\([^()]*\)|<[^<>]*>", " list ", text)
    text = re.sub(r"(lists?|tuples?|sequence|iterable)\s+of\s+\w+", r"\1", text.lower())
    found = set()
    for word in re.findall(r"[\w.]+", text.replace("`", " ").replace(":obj:", " ")):
        kind = next((k for pattern, k in KINDS if re.fullmatch(pattern, word.strip("."))), None)
        if kind is None:
            return None
        found |= set(kind)
    return "".join(sorted(found)) or None


def documented(cls: Any) -> dict[str, str | None]:
    """What the docstrings of a class and its bases say of arguments: name → kinds."""
    found: dict[str, str | None] = {}
    for owner in inspect.getmro(cls) if inspect.isclass(cls) else [cls]:
        for doc in (owner.__doc__, getattr(vars(owner).get("__init__"), "__doc__", None)):
            for match in re.finditer(r"^\s*[-*]?\s*`*(\w+)`*\s*\(((?:[^()]|\([^()]*\))*)\)\s*:", doc or "", re.M):
                found.setdefault(match[1], kinds_of_words(match[2]))
    return found


def kind_of(value: Any) -> str | None:
    for types, kind in ((bool, "b"), (int, "i"), (float, "f"), (str, "s"), ((list, tuple), "l"), (dict, "d")):
        if isinstance(value, types):
            return kind
    return "n" if value is None else None


# what else is taken where nobody wrote down the type: nearly every size may be a pair, and every block may be a list
BESIDE = {"b": "bin", "i": "ifln", "f": "ifln", "s": "sn", "d": "dln", "l": "lifn", "n": None}

LISTS = ("ann_file", "img_prefix", "seg_prefix", "proposal_file")  # build_dataset makes a dataset of each member


def kinds_of_argument(parameter: inspect.Parameter, told: str | None) -> str:
    """Letters of :data:`KINDS`; empty for anything."""
    default = None if parameter.default is parameter.empty else kind_of(parameter.default)
    if parameter.name in LISTS and told:
        return "".join(sorted({*told, "l", "n"}))
    if told is None:
        return BESIDE[default] or "" if default else ""
    if parameter.default is not parameter.empty and default is None:
        return ""
    return "".join(sorted(set(told) | set(default or "")))


def init_of(cls: Any, after: Any = None) -> tuple[Any, Any]:
    """(class that defines it, its ``__init__``), the next one behind ``after`` in the order of resolution."""
    order = list(inspect.getmro(cls))
    for owner in order[order.index(after) + 1 if after else 0:]:
        made = vars(owner).get("__init__")
        if inspect.isfunction(made):
            return owner, made
    return None, None


def arguments(target: Any) -> tuple[dict[str, str], bool]:
    """Names and kinds of what a class or function accepts, and whether it may accept others."""
    told = documented(target)
    if not inspect.isclass(target):
        return _of(inspect.signature(target), told)
    found: dict[str, str] = {}
    hidden: set[str] = set()
    owner, init = init_of(target)
    while init is not None and owner.__module__ != "torch.nn.modules.module":
        own, is_open = _of(inspect.signature(init), told)
        for name, kinds in own.items():
            if name not in hidden:
                found.setdefault(name, kinds)
        if not is_open:
            return found, False
        way = Passed(init)
        found.update({name: "" for name in way.taken if name not in found})
        following, init_of_following = init_of(target, owner)
        if way.elsewhere or not way.to_super:
            return found, way.elsewhere
        names = [n for n in inspect.signature(init_of_following or init).parameters if n != "self"]
        hidden |= set(way.keywords) | set(names[:way.positional])
        owner, init = following, init_of_following
    return found, False


def _of(signature: inspect.Signature, told: dict[str, str | None]) -> tuple[dict[str, str], bool]:
    found = {p.name: kinds_of_argument(p, told.get(p.name)) for p in signature.parameters.values()
             if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL, p.POSITIONAL_ONLY)}
    return found, any(p.kind == p.VAR_KEYWORD for p in signature.parameters.values())


class Passed:
    """What an ``__init__`` does with its ``**kwargs``.

    Attributes:
        to_super: They go to the next class's ``__init__``, beside ``positional`` arguments and ``keywords``.
        elsewhere: They also go to something unknown.
        taken: Names that it takes out of them by itself.
    """

    def __init__(self, init: Any) -> None:
        self.to_super = False
        self.positional = 0
        self.keywords: list[str] = []
        self.taken: list[str] = []
        tree = ast.parse(textwrap.dedent(inspect.getsource(init))).body[0]
        assert isinstance(tree, ast.FunctionDef) and tree.args.kwarg
        self.name = tree.args.kwarg.arg
        harmless: set[int] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                self._call(node, harmless)
            elif isinstance(node, ast.Subscript) and self._is(node.value):
                self._take(node.slice, node.value, harmless)
            elif isinstance(node, ast.Compare) and self._is(node.comparators[0]):
                self._take(node.left, node.comparators[0], harmless)
        self.elsewhere = any(self._is(node) and id(node) not in harmless for node in ast.walk(tree))

    def _is(self, node: ast.AST) -> bool:
        return isinstance(node, ast.Name) and node.id == self.name

    def _take(self, key: ast.AST, holder: ast.AST, harmless: set[int]) -> None:
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            self.taken.append(key.value)
            harmless.add(id(holder))

    def _call(self, node: ast.Call, harmless: set[int]) -> None:
        function = node.func
        if isinstance(function, ast.Attribute) and self._is(function.value) \
                and function.attr in ("pop", "get", "setdefault") and node.args:
            self._take(node.args[0], function.value, harmless)
        passed = [k.value for k in node.keywords if k.arg is None and self._is(k.value)]
        if passed and isinstance(function, ast.Attribute) and function.attr == "__init__" \
                and ast.unparse(function.value).startswith("super("):
            self.to_super = True
            self.positional = sum(not isinstance(a, ast.Starred) for a in node.args)
            self.keywords = [k.arg for k in node.keywords if k.arg]
            harmless.update(id(value) for value in passed)


def collect() -> dict[str, dict[str, list[str]]]:
    """Section → type → arguments as they stand in the table, of everything that is registered here."""
    import mmcv
    import mmcv.ops

    mmcv.__version__ = "1.6.0"  # which all releases of mmdet accept; the classes are the same
    import mmdet.core
    import mmdet.datasets
    import mmdet.models
    from mmcv.utils import Registry

    import mmdet_ext.register

    assert mmdet.core and mmdet.datasets and mmdet.models and mmdet_ext.register  # importing them registers
    found: dict[str, dict[str, Any]] = {}
    for registry in (o for o in gc.get_objects() if type(o) is Registry):
        section = REGISTRIES.get(registry.name)
        if section:
            found.setdefault(section, {}).update(registry.module_dict)
    found["hook"]["EvalHook"] = mmdet.core.EvalHook
    found["nms"] = {name: getattr(mmcv.ops, name) for name in ("nms", "soft_nms", "nms_match")}
    found["evaluate"] = {name: cls.evaluate for name, cls in found["dataset"].items() if hasattr(cls, "evaluate")}
    return {section: {name: line(name, target) for name, target in sorted(classes.items())}
            for section, classes in sorted(found.items())}


def line(name: str, target: Any) -> list[str]:
    """The arguments of a class as they stand in the table."""
    legal, is_open = arguments(target)
    if name in BEHIND:
        legal.update({extra: "" for extra in BEHIND[name].split() if extra not in legal})
        is_open = False
    legal.pop("self", None)
    return [f"{arg}:{kinds}" if kinds else arg for arg, kinds in legal.items()] + [OPEN] * is_open


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
    return ":" + "".join(sorted(set("".join(some)))) if all(some) else ""


def _span(having: list[str], releases: list[str]) -> str:
    """``@2.26.0-`` for what came with that release, ``@-2.27.0`` for what went after that one."""
    first = having[0] if having[0] != releases[0] else ""
    last = having[-1] if having[-1] != releases[-1] else ""
    return f"@{first}-{last}" if first or last else ""


def of_sources(folder: Path) -> tuple[str, dict[str, dict[str, list[str]]]]:
    """(release, table) of an unpacked source distribution of mmdet."""
    version = runpy.run_path(str(folder / "mmdet" / "version.py"))["__version__"]
    root = Path(__file__).resolve().parents[1]
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
