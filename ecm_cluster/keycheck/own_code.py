"""Classes that are not in the table: the user's own, and those of a modified mmdet. Found by parsing, not importing."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

# modules that do not register users' classes; Python lists its standard library from 3.10 on
STOCK = {"mmdet_ext", "mmdet", "mmcv", "torch", *(getattr(sys, "stdlib_module_names", None) or
                                                  (path.stem for path in Path(os.__file__).parent.iterdir()))}


class OwnCode:
    """The classes that the modules in ``custom_imports``, some from the job's directory ``code``, may register."""

    def __init__(self, cfg: dict[str, Any], code: str | None) -> None:
        section = cfg.get("custom_imports")
        imports = section.get("imports") if isinstance(section, dict) else None
        names = [imports] if isinstance(imports, str) else imports if isinstance(imports, (list, tuple)) else []
        folder = Path(code).expanduser() if code else None
        own = [name for name in names if isinstance(name, str)
               and (name.partition(".")[0] not in STOCK or (folder and _is_in(folder, name)))]
        self.text = ""
        # a module elsewhere can register anything
        self.is_opaque = any(folder is None or not _is_in(folder, name) for name in own)
        if own and folder and not self.is_opaque:
            self.text = "\n".join(path.read_text(encoding="utf-8", errors="replace")
                                  for path in sorted(folder.rglob("*.py")) if path.is_file())
        self.defined = set(re.findall(r"^\s*class\s+(\w+)", self.text, re.M))

    def may_define(self, name: str, stock: bool) -> bool:
        """Whether a class of this name may be registered there, or in the installed mmdet.

        Args:
            stock: Whether the table has a class of this name in another registry, so that one in mmdet's code does
                not count.
        """
        return self.is_opaque or re.search(rf"\b{re.escape(name)}\b", self.text) is not None \
            or (not stock and bool(_definitions(name)))

    def accepts(self, name: str, argument: str) -> bool:
        """Whether this version of a class accepts an argument that the table does not have for it."""
        return name in self.defined or any(argument in _arguments(tree) for tree in _definitions(name))


def _is_in(folder: Path, module: str) -> bool:
    top = module.partition(".")[0]
    return (folder / top).is_dir() or (folder / f"{top}.py").is_file()


@lru_cache
def _installed() -> list[str]:
    """The sources of the installed mmdet, which may be a fork with additional classes and arguments."""
    spec = importlib.util.find_spec("mmdet")  # does not import it
    return [path.read_text(encoding="utf-8", errors="replace")
            for root in (spec and spec.submodule_search_locations) or []
            for path in Path(root).rglob("*.py") if ".mim" not in path.parts]


@lru_cache
def _definitions(name: str) -> list[ast.ClassDef]:
    """Definitions of classes with this name in the installed mmdet."""
    return [node for text in _installed() if f"class {name}" in text for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.ClassDef) and node.name == name]


def _arguments(tree: ast.ClassDef) -> set[str]:
    return {argument.arg for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"
            for argument in node.args.args + node.args.kwonlyargs}
