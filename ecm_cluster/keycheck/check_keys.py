"""Refuses keys, types and kinds of values in a config or in ``--set`` that mmdet would reject or ignore.

Each block ``dict(type='X', …)`` is compared with the arguments of X, and each section with the keys that mmdet reads.
A name at the top level that mmdet does not read is a variable of the config and is accepted; setting it by an option
would have no effect, so that is refused. ``+key=value`` sets any key unchecked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..base.errors import UserError
from ..mmclasses import classes
from ..mmconfig.lookup import NOTHING, at, nearest
from . import kinds, ranges, sections
from .own_code import OwnCode
from .wording import Wording

# arguments whose 'type' is not the name of a registered class
_OTHER_TYPES = {"adapt_cfg", "same_up_trans", "same_down_trans", "across_lateral_trans", "across_down_trans",
                "across_up_trans", "across_skip_trans", "output_trans", "bbox_params", "file_client_args"}
_SECTION_OF = {"pipeline": "pipeline", "dataset": "dataset", "datasets": "dataset"}
# arguments of a model's classes that mmdet builds, so they need a type
_PARTS = re.compile(r"(^|_)(backbone|neck|(?<!feature_)head|coder|generator|extractor|assigner|sampler|roi_layer|dcn|"
                    r"norm_cfg|act_cfg)$|^loss_")
OF_BLOCKS = {"pipeline", "transforms", "hooks", "custom_hooks", "datasets"}  # lists of dicts with a type

def refuse(base: Mapping[str, Any], cfg: dict[str, Any], options: Mapping[str, Any], code: str | None = None,
           release: str | None = None) -> None:
    """Refuse a config with keys, types or values that mmdet does not accept.

    Raises:
        UserError: With the key, the closest valid ones, and how to set it nevertheless.
    """
    checking = _Checking(base, cfg, options, OwnCode(cfg, code), release)
    found: dict[str, str] = {}
    for key, text in checking.config():
        found.setdefault(key, text)
    if found:
        key, text = next(iter(found.items()))
        more = list(found)[1:]
        also = f"; also wrong: {', '.join(more[:8])}{' …' if len(more) > 8 else ''}" if more else ""
        raise UserError(f"{text}{also}")


class _Checking(Wording):
    """One check of a config; yields problems as (key, message)."""

    def config(self) -> Iterator[tuple[str, str]]:
        """All problems, top to bottom."""
        named = sections.known(self.cfg, "")
        assert named is not None
        for name, value in self.cfg.items():
            if name in named[1]:
                yield from self.kind(name, value, named[1][name])
                yield from self.section(name, value)
            elif self.is_added(name):
                continue
            elif any(key.partition(".")[0] == name for key in self.given):
                yield name, self.no_section(name, named[1])
            else:
                yield from self.misspelt(name, named[1])
        yield from ((key, f"{self.who(key)}: {wrong}") for key, wrong in ranges.problems(self.cfg))

    def section(self, key: str, value: Any) -> Iterator[tuple[str, str]]:
        """A part of the config that is not a block of a single class."""
        if isinstance(value, dict):
            named = sections.known(self.cfg, key)
            is_block = "type" in value and key != "runner" and (key not in sections.OF_CLASS or named is None)
            if named is not None and not is_block:
                yield from self.members(key, value, *named)
            if key == "optimizer" and isinstance(value.get("constructor"), str):
                yield from self.name(value["constructor"], "optimizer.constructor", "constructor")
            if key in ("lr_config", "momentum_config"):
                yield from self.policy(key, value)
            elif key == "data":
                for name, inner in value.items():
                    if name in ("train", "val", "test"):
                        yield from self.inside(inner, f"{key}.{name}", "dataset")
                    else:
                        yield from self.section(f"{key}.{name}", inner)
                return
            elif key == "log_config":
                yield from self.inside(value.get("hooks"), "log_config.hooks", "hook")
                return
            if is_block or key in ("model", "optimizer", "model_wrapper"):
                role = {"optimizer": "optimizer", "model": "model", "model_wrapper": "model"}.get(key, "hook")
                yield from self.inside(value, key, role)
            elif key in ("train_cfg", "test_cfg"):
                yield from self.inside(value, key, "cfg")
            else:
                for name, inner in value.items():
                    yield from self.section(f"{key}.{name}", inner)
        elif key == "custom_hooks":
            yield from self.inside(value, key, "hook")
        elif key == "workflow" and isinstance(value, (list, tuple)):
            for number, step in enumerate(value):
                if not (isinstance(step, (list, tuple)) and [kinds.kind_of(part) for part in step] == ["s", "i"]):
                    full = f"{key}.{number}"
                    yield full, (f"{self.who(full)}: invalid value {kinds.short(step)}; expected a mode and a number "
                                 "of epochs, e.g. ('train', 1)")

    def inside(self, value: Any, key: str, role: str) -> Iterator[tuple[str, str]]:
        """Blocks in ``value`` at any depth; ``role`` is the section that contains their classes."""
        if self.is_added(key):
            return
        if isinstance(value, (list, tuple)):
            for number, inner in enumerate(value):
                if key.rpartition(".")[2] in OF_BLOCKS:
                    yield from self.kind(f"{key}.{number}", inner, "d")
                    if isinstance(inner, dict) and "type" not in inner:
                        full = f"{key}.{number}"
                        yield full, f"{self.who(full)}: has no 'type'; expected the name of a class"
                yield from self.inside(inner, f"{key}.{number}", role)
        if not isinstance(value, dict):
            return
        if "type" in value:
            known = yield from self.block(value, key, role)
            if known and known.type == "Albu":
                return  # its transforms are classes of albumentations
        elif self.is_given(key) and isinstance(at(self.base, f"{key}.type"), str):
            yield f"{key}.type", f"{self.who(key)}: no longer has a 'type'; expected the name of a class"
        elif role == "cfg":
            named = classes.arguments_of("cfg", "cfg")
            assert named is not None
            yield from self.members(key, value, "mmdet", named.kinds, only_given=True)
        for name, inner in value.items():
            if name in _OTHER_TYPES:
                continue
            below = "cfg" if name in ("train_cfg", "test_cfg") else _SECTION_OF.get(name, role)
            if key == "optimizer" and name == "paramwise_cfg":
                yield from self.section(f"{key}.{name}", inner)
            else:
                yield from self.inside(inner, f"{key}.{name}", below)

    def block(self, value: dict[str, Any], key: str, role: str) -> Any:
        """A block with a ``type``; returns the arguments of its class, if known."""
        name, where = value["type"], f"{key}.type"
        if not isinstance(name, str):
            if isinstance(name, type) or callable(name):
                return None
            yield where, f"{self.who(where)}: invalid type {name!r}; expected the name of a class"
            return None
        section = "model" if role == "cfg" else role
        if role == "dataset" and key.startswith("data.train") and value.get("pipeline") in ([], ()):
            yield f"{key}.pipeline", (f"{self.who(f'{key}.pipeline')}: is empty; expected the transforms that load and "
                                      "format an image")
        known = classes.arguments_of(section, name, self.release)
        before = at(self.base, where)
        replaced = classes.arguments_of(section, before, self.release) if isinstance(before, str) else None
        if known is None or name in self.own.defined:
            yield from self.name(name, where, section, replaced)
            return None
        if replaced and replaced.section != known.section:
            yield where, (f"{self.who(where)}: {name} cannot replace {before}: it is in the registry {known.section}, "
                          f"not {replaced.section}")
        parts = [inner for inner in known.kinds if section == "model" and _PARTS.search(inner)]
        valid = {**known.kinds, "type": "s",
                 **{part: "dl" if known.kinds[part] else "dln" for part in parts
                    if known.kinds[part] in ("", classes.REQUIRED)}}
        if role == "dataset" and key in ("data.val", "data.test"):
            valid["samples_per_gpu"] = "i"  # its deprecated place in mmdet
        if known.is_open:
            valid.update({other: "" for other in value if other not in valid})
        yield from self.members(key, value, name, valid)
        for inner in parts:
            full = f"{key}.{inner}"
            if isinstance(value.get(inner), dict) and "type" not in value[inner] and not self.is_added(full) \
                    and not isinstance(at(self.base, f"{full}.type"), str):  # else `inside` reports it
                yield full, f"{self.who(full)}: has no 'type'; expected the name of a class"
        return known

    def name(self, name: str, where: str, section: str,
             replaced: classes.Arguments | None = None) -> Iterator[tuple[str, str]]:
        """The name of a class, which exists or may exist."""
        known = classes.arguments_of(section, name, self.release)
        is_scoped = "." in name and name.partition(".")[0] not in ("mmdet", "mmcv")
        is_stock = classes.arguments_of(None, name) is not None
        if not (known or is_scoped or self.is_added(where) or self.own.may_define(name, is_stock)):
            yield where, self.no_type(where, name, section, replaced)

    def members(self, key: str, value: dict[str, Any], what: str, valid: Mapping[str, str],
                only_given: bool = False) -> Iterator[tuple[str, str]]:
        """Keys of a dict against the valid ones; ``only_given``: only those added by options."""
        for name, inner in value.items():
            full = f"{key}.{name}"
            if self.is_added(full) and not (key in sections.READ_HERE and valid.get(name)):
                continue
            if name in valid:
                yield from self.kind(full, inner, valid[name])
            elif only_given and not (self.is_given(full) and at(self.base, full, NOTHING) is NOTHING):
                continue
            elif not self.own.accepts(what, str(name)):
                yield full, self.no_key(full, str(name), what, valid)

    def kind(self, key: str, value: Any, valid: str) -> Iterator[tuple[str, str]]:
        """The kind of a value."""
        wrong = kinds.problem(value, valid, at(self.base, key) if self.is_given(key) else None) \
            or sections.unknown_choice(key, value)
        if wrong:
            yield key, f"{self.who(key)}: {wrong}"

    def policy(self, key: str, value: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """The policy of ``lr_config`` or ``momentum_config``, which selects a hook."""
        policy = value.get("policy")
        where = f"{key}.policy"
        if isinstance(policy, str) and "type" not in value and not self.is_added(where):
            hook = sections.hook_of_policy(key, policy)
            if classes.arguments_of("hook", hook, self.release) is None and not self.own.may_define(hook, stock=False):
                ending = sections.hook_of_policy(key, "")
                there = [n[:-len(ending)] for n in classes.types_in("hook") if n.endswith(ending) and n != ending]
                yield where, (f"{self.who(where)}: unknown policy {policy!r}{nearest(policy, there)} (mmcv has "
                              f"{', '.join(there)})")
