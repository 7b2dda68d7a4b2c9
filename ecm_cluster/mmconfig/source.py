"""One config file by itself: its placeholders, its imports, what it binds.

``{{ fileDirname }}``, ``{{ fileBasename }}``, ``{{ fileBasenameNoExtension }}`` and ``{{ fileExtname }}`` are
replaced in the text before it is executed; ``{{ _base_.a.b }}`` becomes a string of its own, whose place the
value takes once the bases are read. (The rules are those of mmcv 1.x, ``Config._file2dict``.)
"""

from __future__ import annotations

import ast
import contextlib
import copy
import importlib.util
import re
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base import reading
from ..base.errors import UserError
from .edit import BASE, map_strings
from .literals import plain

# never imported while a config is read, even where they are installed: a login node may lack them, and torch
# alone takes seconds
_HEAVY = {"mmcv", "mmdet", "torch", "torchvision"}
_FILE_VARIABLE = re.compile(r"\{\{\s*(fileDirname|fileBasename|fileBasenameNoExtension|fileExtname)\s*\}\}")
_BASE_VARIABLE = re.compile(r"\{\{\s*_base_\.([\w.]+)\s*\}\}")
_DROPPED = (types.ModuleType, types.FunctionType)


@dataclass
class Source:
    """The text of one config, with what its placeholders stand for."""

    path: Path
    text: str
    tokens: dict[str, str]  # a string put into the text: the name in the bases that it stands for
    lines: dict[str, int] = field(default_factory=dict)  # where a name is bound at the top

    @classmethod
    def open(cls, path: Path) -> Source:
        """Read ``path`` (absolute) and replace the placeholders in its text."""
        if path.suffix not in (".py", ".json", ".yaml", ".yml"):
            raise UserError(f"config {path}: is no .py, .json, .yaml or .yml")
        try:
            text = reading.read_text(path)
        except OSError as error:
            raise UserError(f"config {path}: cannot be read ({error.strerror}); check the path and its permissions"
                            ) from None
        own = {"fileDirname": str(path.parent), "fileBasename": path.name,
               "fileBasenameNoExtension": path.stem, "fileExtname": path.suffix}
        text = _FILE_VARIABLE.sub(lambda match: own[match[1]], text)
        tokens: dict[str, str] = {}

        def token(match: re.Match) -> str:
            made = f"_of_base_{len(tokens)}_7c1f2e9a_"
            tokens[made] = match[1]
            return f'"{made}"'

        return cls(path, _BASE_VARIABLE.sub(token, text), tokens)

    def at(self, key: str, text: str | None = None) -> str:
        """``file:line`` of the name that ``key`` begins with, or of the first ``text`` from there on."""
        line = self.lines.get(key.partition(".")[0], 1)
        if text is not None:
            rest = self.text.splitlines()[line - 1:]
            line += next((at for at, content in enumerate(rest) if text in content), 0)
        return f"{self.path}:{line}"

    def values(self) -> dict[str, Any]:
        """What the file binds, before inheritance: no modules, functions or names that begin with ``__``."""
        values = self._execute() if self.path.suffix == ".py" else self._parse()
        if not isinstance(values, dict):
            raise UserError(f"config {self.path}: expected names and values, not a {type(values).__name__}")
        return plain(values, f"config {self.path}")  # anything else may not bear to be walked or copied

    def substitute(self, values: dict[str, Any], inherited: dict[str, Any]) -> dict[str, Any]:
        """``values`` with every placeholder for a value of the bases replaced by a copy of that value."""
        if not self.tokens:
            return values

        def look_up(text: str) -> Any:
            if text not in self.tokens:
                return text
            value: Any = inherited
            for part in self.tokens[text].split("."):
                if not isinstance(value, dict) or part not in value:
                    place, name = self.at("", text), self._placeholder(text)
                    raise UserError(f"{place}: {name}: the bases have no such value")
                value = value[part]
            return copy.deepcopy(value)

        found = map_strings(values, look_up)
        text = repr(found)
        for token in self.tokens:
            if token in text:
                place, name = self.at("", token), self._placeholder(token)
                raise UserError(f"{place}: {name} must be a value by itself: no part of a string, nothing "
                                f"joined to one, no key")
        return found

    def _placeholder(self, token: str) -> str:
        return f"{{{{ {BASE}.{self.tokens[token]} }}}}"

    def _parse(self) -> Any:
        if self.path.suffix == ".json":
            return reading.parse_json(self.text, self.path)
        import yaml  # few configs are YAML, and it takes 30 ms

        try:
            return yaml.safe_load(self.text)
        except Exception as error:  # beside its own, whatever a date, a number or a depth makes
            raise UserError(f"config {self.path}: not valid YAML ({_one_line(error)})") from None

    def _execute(self) -> dict[str, Any]:
        tree = self._tree()
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            self.lines.update({t.id: node.lineno for t in targets if isinstance(t, ast.Name)})
        self._refuse_imports(tree)
        name = f"_ecm_cluster_config_{id(self)}"
        module = types.ModuleType(name)
        module.__file__ = str(self.path)
        sys.modules[name] = module  # a dataclass made by the config looks its module up there
        try:
            with contextlib.redirect_stdout(sys.stderr):  # what a verb prints may be read by a program
                exec(compile(tree, str(self.path), "exec", dont_inherit=True), module.__dict__)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit among others
            line = self._line_of(error)
            raise UserError(f"{self.path}:{line}: {type(error).__name__}: {_one_line(error)}") from None
        finally:
            sys.modules.pop(name, None)
        found = module.__dict__.items()
        return {k: v for k, v in found if isinstance(k, str) and not k.startswith("__") and not isinstance(v, _DROPPED)}

    def _tree(self) -> ast.Module:
        try:
            return ast.parse(self.text, filename=str(self.path))
        except (RecursionError, MemoryError):
            raise UserError(f"{self.path}:1: nested too deeply; expected names and values") from None
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None) or 1
            quoted = any(token in "".join(self.text.splitlines()[line - 1:line]) for token in self.tokens)
            hint = f"; {{{{ {BASE}.… }}}} stands for a value and goes without quotes" if quoted else ""
            raise UserError(f"{self.path}:{line}: {getattr(error, 'msg', error)}{hint}") from None

    def _refuse_imports(self, tree: ast.Module) -> None:
        for node in _imports(tree):
            relative = isinstance(node, ast.ImportFrom) and node.level > 0
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or "."]
            for name in names:
                if relative or not _importable(name.partition(".")[0]):
                    place = f"{self.path}:{node.lineno}"
                    raise UserError(f"{place}: imports {name}, but configs are read on a login node without it; "
                                    f"move what needs it to a module of yours, name that in custom_imports and "
                                    f"give it with --code")

    def _line_of(self, error: BaseException) -> int:
        trace, line = error.__traceback__, 1
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == str(self.path):
                line = trace.tb_lineno
            trace = trace.tb_next
        return line


def _imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that run when the file does, apart from those in a ``try``: it can handle their failure."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.Try)):
            yield from _imports(child)


def _importable(top: str) -> bool:
    return top not in _HEAVY and (top in sys.modules or importlib.util.find_spec(top) is not None)


def _one_line(error: BaseException) -> str:
    try:
        return " ".join(str(error).split())[:300]
    except Exception:  # an exception of the config's own
        return "without a message"
