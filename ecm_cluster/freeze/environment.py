"""What is installed: as complete as ``pip freeze``, and what torch was built with, without importing it.

No values of environment variables, and no secrets of the URLs that packages were installed from.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import json
import os
import platform
import re
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from ..base import files, reading
from ..base.units import without_secrets

BUILT_WITH = re.compile(r"^(__version__|cuda|hip|git_version|debug)\b[^=\n]*= *(.+)$", re.MULTILINE)
LIBRARIES = {"cudnn": "nvidia-cudnn-cu", "nccl": "nvidia-nccl-cu"}  # where they are packages of their own


def record() -> dict[str, Any]:
    """The environment of this interpreter, as JSON."""
    installed = distributions()
    return {"python": platform.python_version(), "implementation": platform.python_implementation(),
            "executable": sys.executable, "platform": platform.platform(), "machine": platform.machine(),
            "glibc": _glibc(), "conda": _conda(Path(sys.prefix)), "torch": torch(installed),
            "distributions": installed, "digest": digest(installed)}


def distributions() -> list[dict[str, Any]]:
    """Every installed distribution once, as an import would find it, by name, with its version.

    One that was installed from a repository or a folder has its ``origin`` (``url``, ``commit``, ``editable``), too.
    """
    found: dict[str, dict[str, Any]] = {}
    for each in metadata.distributions():
        with contextlib.suppress(Exception):  # half removed: one that pip would complain about, too
            if "_vendor" in Path(str(each.locate_file(""))).parts:
                continue  # copies that setuptools puts on the path once it is imported; pip does not list them
            name, read = str(each.metadata["Name"]), each.read_text
            origin = _origin(read("direct_url.json"))
            found.setdefault(_normal(name), {"name": name, "version": str(each.version),
                                             **({"origin": origin} if origin else {})})
    return [found[name] for name in sorted(found)]


def digest(installed: list[dict[str, Any]]) -> str:
    """A digest by which two environments are the same."""
    return files.digest_text(json.dumps([[_normal(each["name"]), each["version"], each.get("origin")]
                                         for each in installed]))


def torch(installed: list[dict[str, Any]]) -> dict[str, Any]:
    """torch's version, and what it was built with; empty where it is not installed."""
    built: dict[str, Any] = {}
    with contextlib.suppress(ImportError, ValueError, OSError, AttributeError, SyntaxError):
        home = Path(importlib.util.find_spec("torch").submodule_search_locations[0])  # type: ignore[union-attr,index]
        text = (home / "version.py").read_text(encoding="utf-8")
        built = {key.strip("_"): ast.literal_eval(value.strip()) for key, value in BUILT_WITH.findall(text)}
    for name, package in LIBRARIES.items():
        version = next((each["version"] for each in installed if _normal(each["name"]).startswith(package)), None)
        built.update({name: version} if built and version else {})
    return {key: value for key, value in built.items() if value}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _origin(text: str | None) -> dict[str, Any]:
    """Where a distribution was installed from, by PEP 610; empty where that was an index."""
    parsed = reading.parse_json(text, "direct_url.json") if text else {}
    if not isinstance(parsed, Mapping) or not isinstance(parsed.get("url"), str):
        return {}
    vcs, folder = parsed.get("vcs_info") or {}, parsed.get("dir_info") or {}
    return {"url": without_secrets(parsed["url"]), **({"commit": str(vcs["commit_id"])} if "commit_id" in vcs else {}),
            **({"editable": True} if folder.get("editable") else {})}


def _glibc() -> str | None:
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return os.confstr("CS_GNU_LIBC_VERSION")
    return None


def _conda(prefix: Path) -> dict[str, Any] | None:
    """Name and packages of the conda environment, which holds more than Python's: CUDA, compilers."""
    with contextlib.suppress(OSError):
        packages = sorted(path.stem for path in (prefix / "conda-meta").iterdir() if path.suffix == ".json")
        return {"name": prefix.name, "packages": packages}
    return None
