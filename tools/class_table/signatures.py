"""What the signature and the docstrings of a class say of its arguments."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from typing import Any

# words of docstrings, longest first, and the kinds of values that they mean
KINDS = [
    (r"none", "n"), (r"bool(ean)?", "b"), (r"ints?|integers?", "i"), (r"floats?|numbers?|scalar", "f"),
    (r"str(ings?)?|path", "s"), (r"(mmcv\.)?config_?dict|dicts?|dictionary|mapping|config|optional\[dict\]", "d"),
    (r"lists?|tuples?|sequence|iterable|array|ndarray|np\.ndarray|iterator", "l"),
    (r"optional|or|of|and|the|a|torch|nn|obj|object|class|default|defaults|mmcv|mmdet|tensor|torch\.tensor|callable|"
     r"function|required|kept|float32", "")]


def kinds_of_words(text: str) -> str | None:
    """The kinds that a docstring's ``(int | list[int], optional)`` admits; None where a word is not understood."""
    if re.fullmatch(r"\([^(),]*\)", text):
        text = text[1:-1]
    while re.search(r"\[[^\[\]]*\]|\([^()]*\)|<[^<>]*>", text):
        # the type of the elements says nothing about the list; a bare pair of brackets is a list
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


# what else is taken for an argument whose default is of a kind, where nobody wrote down its type: nearly every size may
# be a pair, and every block may be a list
BESIDE = {"b": "bin", "i": "ifln", "f": "ifln", "s": "sn", "d": "dln", "l": "lifn", "n": ""}
# and docstrings that exist are careless about numbers and lists of them, and about None
BESIDE_DOCUMENTED = {"i": "in", "l": "lifn", "d": "dln"}
FLOATS = re.compile(r"(val|value|factor|scale|thr|weight|ratio|temperature|border|limit)s?$")
SIZES = re.compile(r"(size|strides?|padding|dilations?|channels|scales?|ratios?|range|shape|indices|convs|layers|"
                   r"depths|heads|kernels?)$")  # these may be lists, regardless of the docstring
NONE_TOO = ("neck", "train_cfg", "test_cfg", "teacher_ckpt")  # of detectors that name them without a default
REQUIRED = "!"  # in front of the kinds of an argument that has no default, and so is not None
ALSO = {"arch": "s", "add_extra_convs": "s", "teacher_ckpt": "n"}  # what docstrings of RegNet, NASFPN, LAD leave out
EXACTLY = {"pretrained": "ns", "init_cfg": "dln"}
LISTS = ("ann_file", "img_prefix", "seg_prefix", "proposal_file")  # build_dataset makes a dataset of each member


def kinds_of_argument(parameter: inspect.Parameter, documentation: str | None, strict: bool) -> str:
    """Letters of :data:`KINDS`; empty for anything."""
    if parameter.default is parameter.empty:
        kinds = _kinds(parameter.name, documentation, "", strict)
        may_be_none = "n" in (documentation or "") or parameter.name in NONE_TOO
        return kinds if may_be_none else REQUIRED + kinds.replace("n", "")
    return _kinds(parameter.name, documentation, kind_of(parameter.default), strict)


def _kinds(name: str, documentation: str | None, default: str | None, strict: bool) -> str:
    if name in EXACTLY:
        return EXACTLY[name]
    if default is None or (documentation is None and default in ("", "n")):
        return ""
    if documentation is None:
        found = BESIDE[default]
    else:
        found = documentation + default
        found += "" if strict else "".join(BESIDE_DOCUMENTED.get(kind, "") for kind in documentation
                                              if kind != "l" or "s" not in documentation)
        found += "l" if set(documentation) & set("if") and SIZES.search(name) else ""
        found += "f" if "i" in documentation and FLOATS.search(name) else ""
    return "".join(sorted({*found, *("ln" if name in LISTS else ""), *ALSO.get(name, "")}))


def init_of(cls: Any, after: Any = None) -> tuple[Any, Any]:
    """(class that defines it, its ``__init__``), the next one behind ``after`` in the order of resolution."""
    order = list(inspect.getmro(cls))
    for owner in order[order.index(after) + 1 if after else 0:]:
        made = vars(owner).get("__init__")
        if inspect.isfunction(made):
            return owner, made
    return None, None


def arguments(target: Any, strict: bool = False) -> tuple[dict[str, str], bool]:
    """Names and kinds of what a class or function accepts, and whether it may accept others.

    Args:
        strict: Take docstrings at their word.
    """
    documentation = documented(target)
    if not inspect.isclass(target):
        return _of(inspect.signature(target), documentation, strict)
    found: dict[str, str] = {}
    hidden: set[str] = set()
    owner, init = init_of(target)
    while init is not None and owner.__module__ != "torch.nn.modules.module":
        own, is_open = _of(inspect.signature(init), documentation, strict)
        for name, kinds in own.items():
            if name not in hidden:
                found.setdefault(name, kinds)
        found.update({name: "" for name in renamed(init) if name not in found})
        if not is_open:
            return found, False
        way = Passed(init)
        found.update({name: "" for name in way.taken if name not in found})
        behind = next((c for c in inspect.getmro(target) if c.__name__ == way.behind), owner)
        following, init_of_following = init_of(target, behind)
        if way.elsewhere or not way.to_super:
            return found, way.elsewhere
        names = [n for n in inspect.signature(init_of_following or init).parameters if n != "self"]
        hidden |= set(way.keywords) | set(names[:way.positional])
        owner, init = following, init_of_following
    return found, False


def _of(signature: inspect.Signature, documentation: dict[str, str | None],
        strict: bool) -> tuple[dict[str, str], bool]:
    found = {p.name: kinds_of_argument(p, documentation.get(p.name), strict) for p in signature.parameters.values()
             if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL, p.POSITIONAL_ONLY)}
    return found, any(p.kind == p.VAR_KEYWORD for p in signature.parameters.values())


def renamed(init: Any) -> list[str]:
    """Older names of arguments, which mmcv's decorator ``deprecated_api_warning`` translates."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(init))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    return [key.value for call in tree.decorator_list if isinstance(call, ast.Call)
            and ast.unparse(call.func) == "deprecated_api_warning" and isinstance(call.args[0], ast.Dict)
            for key in call.args[0].keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]


class Passed:
    """What an ``__init__`` does with its ``**kwargs``.

    Attributes:
        to_super: They go to the next class's ``__init__``, beside ``positional`` arguments and ``keywords``.
        behind: The class in ``super(CLASS, self)``, if one is given: the next class is the one behind it.
        elsewhere: They also go to something unknown.
        taken: Names that it removes from them.
    """

    def __init__(self, init: Any) -> None:
        self.to_super = False
        self.positional, self.behind = 0, ""
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
                and isinstance(function.value, ast.Call) and ast.unparse(function.value.func) == "super":
            self.to_super = True
            self.behind = ast.unparse(function.value.args[0]) if function.value.args else ""
            self.positional = sum(not isinstance(a, ast.Starred) for a in node.args)
            self.keywords = [k.arg for k in node.keywords if k.arg]
            harmless.update(id(value) for value in passed)
