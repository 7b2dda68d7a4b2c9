"""Pretrained weights: found in a config, fetched once on the login node, local paths put in place of URLs.

Compute nodes often have no network, and a hundred ranks that fetch the same file are a burden where they have
one. So submission fetches each file once into a folder that all nodes see, and the run holds paths alone.

Covered: ``init_cfg=dict(type='Pretrained', checkpoint=…)`` anywhere; ``load_from``, ``resume_from``; in the
model ``pretrained``, ``teacher_ckpt`` and any other string that mmcv would open over the network. Not
covered: what a model's own Python code fetches (for that reason ``pretrained=True`` is refused), and what the
config of a teacher model names.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..base import folders
from ..base.errors import UserError
from ..base.units import without_secrets
from ..pickles import archive
from . import model_urls
from .weight_cache import Fetched, WeightFile, cache_folder, fetch, place

__all__ = ["Fetched", "WeightFile", "cache_folder", "fetch", "find", "rewrite", "unreadable"]

TOP_KEYS = ("load_from", "resume_from")
MODEL_ENTRIES = ("state_dict", "model")
MODEL_KEYS = ("pretrained", "teacher_ckpt")
# as mmcv spells them, and their kind in the table of URLs
SCHEMES = {"torchvision": "torchvision", "modelzoo": "torchvision", "open-mmlab": "open-mmlab",
           "openmmlab": "open-mmlab", "mmcls": "mmcls"}
# everything that mmcv 1.x opens over a network, supported here or not
NETWORK = re.compile(r"(https?|torchvision|modelzoo|open-mmlab|openmmlab|mmcls|pavi|(\S+:)?s3)://")


def find(cfg: dict[str, Any], cache: Path | None = None) -> list[WeightFile]:
    """Everything in a resolved config that a rank would open to read weights from, in the config's order.

    Relative paths in it are taken from the working folder.

    Raises:
        UserError: For a path without a file, an unknown name, or a scheme that cannot be fetched.
    """
    return [_resolve(key, source, prefixed, cache) for key, source, prefixed in _references(cfg)]


def unreadable(found: Iterable[WeightFile]) -> list[str]:
    """One line for each existing file that cannot be read, holds more than plain data, or no weights."""
    problems = []
    for weight in found:
        try:
            if weight.path.is_file():
                # some backbones of mmdet look for the entry "model" as well, as their authors publish it
                archive.check_weights(weight.path, *(("state_dict",) if weight.key in TOP_KEYS else MODEL_ENTRIES))
        except archive.InvalidCheckpoint as error:
            problems.append(f"{weight.key}: {error}")
        except OSError as error:
            problems.append(f"{weight.key}: {weight.path} cannot be read ({error.strerror}); check its permissions")
    return problems


def rewrite(cfg: dict[str, Any], fetched: Iterable[Fetched]) -> dict[str, Any]:
    """A copy of the config that names the local files; :func:`find` on it gives these and no URL."""
    return _replace(cfg, "", {one.weight.key: one for one in fetched})


def _references(value: Any, key: str = "", in_model: bool = False) -> Iterator[tuple[str, str, bool]]:
    """(key, source, whether a ``prefix`` beside it can cut the wanted part out) of each reference."""
    initializer = isinstance(value, dict) and value.get("type") == "Pretrained"
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for name, item in items:
        here = f"{key}.{name}" if key else str(name)
        named = (initializer and name == "checkpoint") or (not key and name in TOP_KEYS) or (
            in_model and name in MODEL_KEYS)
        if in_model and name == "pretrained" and item is True:
            raise UserError(f"{here}: True lets the model's own code fetch weights on the compute node; "
                            f"expected None, a path or a URL: --set {here}=PATH")
        if item == "" and named and key:
            raise UserError(f"{here}: is empty; expected a path, a URL{'' if initializer else ' or None'}: --set "
                            f"{here}=PATH")
        if isinstance(item, str) and item and (named or (in_model and NETWORK.match(item))):
            yield here, item, initializer
        else:
            yield from _references(item, here, in_model or here == "model")


def _replace(value: Any, key: str, places: dict[str, Fetched]) -> Any:
    if key in places:
        return str(places[key].path)
    if isinstance(value, dict):
        new = {name: _replace(item, f"{key}.{name}" if key else str(name), places)
               for name, item in value.items()}
        here = places.get(f"{key}.checkpoint")
        if value.get("type") == "Pretrained" and here and here.weight.source.startswith("mmcls://"):
            # mmcv keeps of mmcls:// what is below "backbone."; of a path it does so by this prefix
            new["prefix"] = f"backbone.{value.get('prefix') or ''}"
        return new
    if isinstance(value, (list, tuple)):
        return type(value)(_replace(item, f"{key}.{position}", places) for position, item in enumerate(value))
    return value


def _resolve(key: str, source: str, prefixed: bool, cache: Path | None) -> WeightFile:
    scheme, found, name = source.partition("://")
    shown = without_secrets(source)
    if not found:
        try:
            path = folders.absolute(source)
        except UserError as error:
            raise UserError(f"{key}: {error}") from None
        if not os.path.isfile(path):  # which is False for a name that no file can have
            what = f"{path} is a directory" if os.path.isdir(path) else f"there is no file {path}"
            raise UserError(f"{key}: {what}; specify a file with --set {key}=PATH")
        return WeightFile(key, source, None, path, True)
    if scheme in SCHEMES:
        url = _look_up(key, source, scheme, name)
    elif scheme in ("http", "https"):
        url = source
    else:
        raise UserError(f"{key}: {shown} cannot be downloaded; expected a path, http://, https://, "
                        "torchvision://, open-mmlab:// or mmcls://: download the file and give it with "
                        f"--set {key}=PATH")
    if scheme == "mmcls" and not prefixed:
        raise UserError(f"{key}: {source} is a whole classifier, of which only init_cfg=dict("
                        f"type='Pretrained', checkpoint={source!r}) takes the backbone: move it there")
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise UserError(f"{key}: {shown} has a user's name in it, which is not supported; download the file and give "
                        f"it with --set {key}=PATH")
    if not model_urls.file_name(url):
        raise UserError(f"{key}: {shown} names no file; use a URL that ends in one, or --set {key}=PATH")
    path = place(url, cache or cache_folder())
    if not path.is_file() and not model_urls.is_safe(url, model_urls.expected_digest(path.name)):
        raise UserError(f"{key}: {shown} comes unencrypted, and its name holds no digest to check it by; use an "
                        f"https:// URL, or download it and specify the file with --set {key}=PATH")
    return WeightFile(key, shown, url, path, path.is_file())


def _look_up(key: str, source: str, scheme: str, name: str) -> str:
    table = model_urls.table(SCHEMES[scheme])
    if SCHEMES[scheme] == "torchvision":
        # mmcv takes torchvision's own spelling too: ResNet50_Weights.IMAGENET1K_V2
        name = name.lower().replace("_weights", "")
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(f"{key}: {source} is unknown{hint}; expected a name of mmcv's model zoo, a URL or "
                        f"a path: download the file and give it with --set {key}=PATH")
    return table[name]
