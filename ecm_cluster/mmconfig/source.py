"""A single config file: its placeholders, its imports, the names that it defines.

``{{ fileDirname }}``, ``{{ fileBasename }}``, ``{{ fileBasenameNoExtension }}`` and ``{{ fileExtname }}`` are replaced
in the text before it is executed; ``{{ _base_.a.b }}`` becomes a unique string that is replaced by the value once the
bases are read. (The rules of mmcv 1.x, ``Config._file2dict``.)
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

# a config must not import these, even where they are installed: a login node may lack them, and torch alone takes
# seconds
_HEAVY = {"mmcv", "mmdet", "torch", "torchvision"}
_FILE_VARIABLE = re.compile(r"\{\{\s*(fileDirname|fileBasename|fileBasenameNoExtension|fileExtname)\s*\}\}")
_BASE_VARIABLE = re.compile(r"\{\{\s*_base_\.([\w.]+)\s*\}\}")
_DROPPED = (types.ModuleType, types.FunctionType)


@dataclass
class ConfigSource:
    """The text of a config, and the meaning of its placeholders.

    Attributes:
        tokens: Each string that replaces a placeholder → the name in the bases that it refers to.
        lines: Line of each name that is assigned at the top level.
    """

    path: Path
    text: str
    tokens: dict[str, str]
    lines: dict[str, int] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> ConfigSource:
        """Read ``path`` (absolute) and replace the placeholders in its text."""
        if path.suffix not in (".py", ".json", ".yaml", ".yml"):
            raise UserError(f"config {path}: invalid name; expected a .py, .json, .yaml or .yml file")
        try:
            text = reading.read_text(path)
        except OSError as error:
            raise UserError(f"config {path}: could not be read ({error.strerror}); check the path and its permissions"
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
        """``file:line`` of the first part of ``key``, or of the first ``text`` from there on."""
        line = self.lines.get(key.partition(".")[0], 1)
        if text is not None:
            rest = self.text.splitlines()[line - 1:]
            line += next((at for at, content in enumerate(rest) if text in content), 0)
        return f"{self.path}:{line}"

    def values(self) -> dict[str, Any]:
        """The values before inheritance, without modules, functions and names that begin with ``__``."""
        values = self._execute() if self.path.suffix == ".py" else self._parse()
        if not isinstance(values, dict):
            raise UserError(f"config {self.path}: contains a {type(values).__name__}; expected names and values")
        return plain(values, f"config {self.path}")  # first of all: other objects may fail when walked or copied

    def substitute(self, values: dict[str, Any], inherited: dict[str, Any]) -> dict[str, Any]:
        """``values`` with every placeholder replaced by a copy of the value in the bases."""
        if not self.tokens:
            return values

        def look_up(text: str) -> Any:
            if text not in self.tokens:
                return text
            value: Any = inherited
            for part in self.tokens[text].split("."):
                if not isinstance(value, dict) or part not in value:
                    place, name = self.at("", text), self._placeholder(text)
                    raise UserError(f"{place}: {name} does not exist in the bases")
                value = value[part]
            return copy.deepcopy(value)

        found = map_strings(values, look_up)
        text = repr(found)
        for token in self.tokens:
            if token in text:
                place, name = self.at("", token), self._placeholder(token)
                raise UserError(f"{place}: invalid use of {name} as a key or as part of a string; expected it as a "
                                "value of its own")
        return found

    def _placeholder(self, token: str) -> str:
        return f"{{{{ {BASE}.{self.tokens[token]} }}}}"

    def _parse(self) -> Any:
        if self.path.suffix == ".json":
            return reading.parse_json(self.text, self.path)
        import yaml  # here, since few configs are YAML and importing it takes 30 ms

        try:
            return yaml.safe_load(self.text)
        except Exception as error:  # dates, numbers and deep nesting raise errors other than YAMLError
            raise UserError(f"config {self.path}: invalid YAML ({_one_line(error)})") from None

    def _execute(self) -> dict[str, Any]:
        tree = self._tree()
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            self.lines.update({t.id: node.lineno for t in targets if isinstance(t, ast.Name)})
        self._refuse_imports(tree)
        name = f"_ecm_cluster_config_{id(self)}"
        module = types.ModuleType(name)
        module.__file__ = str(self.path)
        sys.modules[name] = module  # before it is executed: a dataclass in the config looks up its module there
        try:
            with contextlib.redirect_stdout(sys.stderr):  # a program may be parsing the output of the verb
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
            hint = f"; remove the quotes around {{{{ {BASE}.… }}}}, which stands for a value" if quoted else ""
            raise UserError(f"{self.path}:{line}: {getattr(error, 'msg', error)}{hint}") from None

    def _refuse_imports(self, tree: ast.Module) -> None:
        for node in _imports(tree):
            relative = isinstance(node, ast.ImportFrom) and node.level > 0
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or "."]
            for name in names:
                if relative or not _importable(name.partition(".")[0]):
                    place = f"{self.path}:{node.lineno}"
                    raise UserError(f"{place}: imports {name}, which is not available where configs are read; move the "
                                    "code that needs it to your own module, list that in custom_imports and give its "
                                    "directory with --code")

    def _line_of(self, error: BaseException) -> int:
        trace, line = error.__traceback__, 1
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == str(self.path):
                line = trace.tb_lineno
            trace = trace.tb_next
        return line


def _imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports that run with the file, except those inside ``try``, which may handle their failure."""
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
    except Exception:  # from an exception class that the config defines
        return "without a message"
