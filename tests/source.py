"""The source tree as data: modules, their imports and calls. What the laws are held over."""

from __future__ import annotations

import ast
import configparser
import functools
import importlib.metadata
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Import:
    """One module that another one imports; ``lazy`` if only when some function is called."""

    name: str
    line: int
    lazy: bool


class Module:
    """A source file: its dotted name, its text, its tree."""

    def __init__(self, path: Path) -> None:
        self.path = path
        parts = path.relative_to(ROOT).with_suffix("").parts
        self.is_package = parts[-1] == "__init__"
        self.name = ".".join(parts[:-1] if self.is_package else parts)
        self.text = path.read_text()
        self.tree = ast.parse(self.text, str(path))

    def __repr__(self) -> str:
        return self.name

    @property
    def where(self) -> str:
        return str(self.path.relative_to(ROOT))

    @functools.cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @functools.cached_property
    def imports(self) -> list[Import]:
        return list(self._imports(self.tree, lazy=False))

    def _imports(self, node: ast.AST, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(alias.name, child.lineno, lazy) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = self._absolute(child)
                for alias in child.names:
                    inner = f"{base}.{alias.name}"
                    yield Import(inner if inner in names() else base, child.lineno, lazy)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                yield from self._imports(child, lazy=True)  # happens in a reader's head
            else:
                function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                yield from self._imports(child, lazy or function)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = self.name.split(".") if self.is_package else self.name.split(".")[:-1]
        package = package[: len(package) - node.level + 1]
        return ".".join(package + ([node.module] if node.module else []))

    @functools.cached_property
    def docstrings(self) -> set[int]:
        """Identities of the constants that are documentation, not values."""
        return {id(node.value) for node in self.nodes
                if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}

    @functools.cached_property
    def is_verb(self) -> bool:
        """Whether it is the file of a verb; of one that is a package, what ``python -m`` runs."""
        if self.name.count(".") == 2 and self.name.endswith(".__main__"):
            return True
        found = {node.name for node in self.tree.body if isinstance(node, ast.FunctionDef)}
        return {"parser", "main"} <= found and self.name.count(".") == 1


def modules(*packages: str) -> list[Module]:
    return [module for package in packages or ("ecm_cluster", "mmdet_ext") for module in _of_package(package)]


@functools.lru_cache(maxsize=None)
def _of_package(package: str) -> list[Module]:
    return [Module(path) for path in sorted((ROOT / package).rglob("*.py"))]


@functools.lru_cache(maxsize=None)
def names() -> set[str]:
    """Dotted names of all modules; read from the paths, so that imports can be resolved while parsing."""
    found = set()
    for package in ("ecm_cluster", "mmdet_ext"):
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.add(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def is_in(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def verbs() -> list[Module]:
    return [module for module in modules("ecm_cluster") if module.is_verb]


def third_party(name: str) -> bool:
    top = name.split(".")[0]
    return top not in sys.stdlib_module_names and top not in ("ecm_cluster", "mmdet_ext")


@functools.lru_cache(maxsize=None)
def setup_cfg() -> configparser.ConfigParser:
    parsed = configparser.ConfigParser()
    parsed.read(ROOT / "setup.cfg")
    return parsed


def import_names(*requirements: str) -> set[str]:
    """Top-level modules of the distributions in lists of requirements as setup.cfg writes them."""
    lines = "\n".join(requirements).strip().splitlines()
    wanted = {canonical(re.split(r"[\s<>=!~;\[]", line.strip())[0]) for line in lines if line.strip()}
    by_module = importlib.metadata.packages_distributions()
    absent = wanted - {canonical(owner) for owners in by_module.values() for owner in owners}
    assert not absent, f"`make setup` installs {', '.join(sorted(absent))}, which setup.cfg names"
    return {m for m, owners in by_module.items() if wanted & {canonical(owner) for owner in owners}}


def canonical(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def holds(violations: list[str]) -> None:
    assert not violations, "\n" + "\n".join(violations)
