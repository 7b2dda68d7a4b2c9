"""Refuses what no part of mmdet would understand: keys, types and kinds of values in a config and in ``--set``.

Each block ``dict(type='X', …)`` is held against what X accepts, and the sections of a config against what mmdet reads
of them. A name at the top of a config that mmdet does not read is a variable, and is let be; setting one by an option
changes nothing, so that is refused. ``+key=value`` sets any key unchecked.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..base.errors import UserError
from ..mmclasses import classes
from ..mmconfig.lookup import NOTHING, at, did_you_mean, nearest, paths
from . import kinds, ranges, sections
from .own_code import OwnCode

# arguments whose blocks name something else than a registered class by 'type'
_OTHER_TYPES = {"adapt_cfg", "same_up_trans", "same_down_trans", "across_lateral_trans", "across_down_trans",
                "across_up_trans", "across_skip_trans", "output_trans", "bbox_params", "file_client_args"}
_SECTION_OF = {"pipeline": "pipeline", "dataset": "dataset", "datasets": "dataset"}
# arguments of a model's classes that mmdet builds, and so needs a type of
_PARTS = re.compile(r"(^|_)(backbone|neck|(?<!feature_)head|coder|generator|extractor|assigner|sampler|roi_layer|dcn|"
                    r"norm_cfg|act_cfg)$|^loss_")
OF_BLOCKS = {"pipeline", "transforms", "hooks", "custom_hooks", "datasets"}  # lists of dicts with a type
SHOWN = 40  # legal names in a message


def refuse(base: Mapping[str, Any], cfg: dict[str, Any], options: Mapping[str, Any], code: str | None = None,
           release: str | None = None) -> None:
    """Refuse a config with keys, types or values that mmdet cannot have.

    Args:
        base: The config without options.
        cfg: The config with them.
        options: Dotted key → value; a key that begins with ``+`` is not checked.
        code: The job's folder of modules of the user's own.
        release: Of mmdet, where it is known.

    Raises:
        UserError: It names the key, the nearest legal ones, and how to set it all the same.
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


class _Checking:
    """One check of a config; what is wrong comes as (key, message)."""

    def __init__(self, base: Mapping[str, Any], cfg: dict[str, Any], options: Mapping[str, Any], own: OwnCode,
                 release: str | None) -> None:
        self.base, self.cfg, self.own, self.release = base, cfg, own, release
        self.added = [self._outermost(str(key).lstrip("+")) for key in options if str(key).startswith("+")]
        self.given = [str(key) for key in options if not str(key).startswith("+")]

    def _outermost(self, key: str) -> str:
        """The outermost part of a key that the config does not have; the key itself if it has all of it."""
        parts = key.split(".")
        outer = (".".join(parts[:depth]) for depth in range(1, len(parts)))
        return next((part for part in outer if at(self.base, part, NOTHING) is NOTHING), key)

    def config(self) -> Iterator[tuple[str, str]]:
        """Everything that is wrong, top to bottom."""
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
        """A part of the config that is no block of one class."""
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
        """Blocks in ``value``, at any depth; ``role`` is the section that classes come from."""
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
                return  # its transforms are albumentations'
        elif self.is_given(key) and isinstance(at(self.base, f"{key}.type"), str):
            yield f"{key}.type", f"{self.who(key)}: has no 'type' any more; expected the name of a class"
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
        """A block with a ``type``; returns what is known of its class."""
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
        former = classes.arguments_of(section, before, self.release) if isinstance(before, str) else None
        if known is None or name in self.own.defined:
            yield from self.name(name, where, section, former)
            return None
        if former and former.section != known.section:
            yield where, (f"{self.who(where)}: {name} cannot replace {before}: it belongs to the registry "
                          f"{known.section}, not {former.section}")
        parts = [inner for inner in known.kinds if section == "model" and _PARTS.search(inner)]
        legal = {**known.kinds, "type": "s",
                 **{part: "dl" if known.kinds[part] else "dln" for part in parts
                    if known.kinds[part] in ("", classes.REQUIRED)}}
        if role == "dataset" and key in ("data.val", "data.test"):
            legal["samples_per_gpu"] = "i"  # mmdet's older place for it
        if known.is_open:
            legal.update({other: "" for other in value if other not in legal})
        yield from self.members(key, value, name, legal)
        for inner in parts:
            full = f"{key}.{inner}"
            if isinstance(value.get(inner), dict) and "type" not in value[inner] and not self.is_added(full) \
                    and not isinstance(at(self.base, f"{full}.type"), str):  # said in another way
                yield full, f"{self.who(full)}: has no 'type'; expected the name of a class"
        return known

    def name(self, name: str, where: str, section: str,
             former: classes.Arguments | None = None) -> Iterator[tuple[str, str]]:
        """Whether there is, or may be, a class of this name."""
        known = classes.arguments_of(section, name, self.release)
        is_scoped = "." in name and name.partition(".")[0] not in ("mmdet", "mmcv")
        is_stock = classes.arguments_of(None, name) is not None
        if not (known or is_scoped or self.is_added(where) or self.own.may_define(name, is_stock)):
            yield where, self.no_type(where, name, section, former)

    def members(self, key: str, value: dict[str, Any], what: str, legal: Mapping[str, str],
                only_given: bool = False) -> Iterator[tuple[str, str]]:
        """Keys of a dict against the legal ones; ``only_given``: those alone that an option added."""
        for name, inner in value.items():
            full = f"{key}.{name}"
            if self.is_added(full) and not (key in sections.READ_HERE and legal.get(name)):
                continue
            if name in legal:
                yield from self.kind(full, inner, legal[name])
            elif only_given and not (self.is_given(full) and at(self.base, full, NOTHING) is NOTHING):
                continue
            elif not self.own.accepts(what, str(name)):
                yield full, self.no_key(full, str(name), what, legal)

    def kind(self, key: str, value: Any, legal: str) -> Iterator[tuple[str, str]]:
        """Whether a value may stand there."""
        wrong = kinds.problem(value, legal, at(self.base, key) if self.is_given(key) else None) \
            or sections.unknown_choice(key, value)
        if wrong:
            yield key, f"{self.who(key)}: {wrong}"

    def policy(self, key: str, value: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """The policy of ``lr_config`` or ``momentum_config``, which names a hook."""
        policy = value.get("policy")
        where = f"{key}.policy"
        if isinstance(policy, str) and "type" not in value and not self.is_added(where):
            hook = sections.hook_of_policy(key, policy)
            if classes.arguments_of("hook", hook, self.release) is None and not self.own.may_define(hook, stock=False):
                ending = sections.hook_of_policy(key, "")
                there = [n[:-len(ending)] for n in classes.types_in("hook") if n.endswith(ending) and n != ending]
                yield where, (f"{self.who(where)}: unknown policy {policy!r}{nearest(policy, there)} (mmcv has "
                              f"{', '.join(there)})")

    # -- what is said

    def who(self, key: str) -> str:
        if self.is_added(key):
            return f"option +{key}"
        return f"option {key}" if self.is_given(key) else f"config: {key}"

    def no_key(self, key: str, name: str, what: str, legal: Mapping[str, str]) -> str:
        if name == "_delete_":
            return f"{self.who(key)}: there is nothing to replace, so _delete_ stays and {what} refuses it; remove it"
        owner = key.rpartition(".")[0]
        there = at(self.base, key, NOTHING) is not NOTHING
        changed = next((word for word in ("type", "policy") if there and f"{owner}.{word}" in self.given), None)
        hint = f"; its {changed} was changed, and this belongs to the old one: --set {owner}._delete_=True drops the " \
            "rest" if changed else self.otherwise(key, name, legal)
        return f"{self.who(key)}: {what} has no {name!r}{hint}"

    def otherwise(self, key: str, name: str, legal: Iterable[str]) -> str:
        """Nearest legal names, or places with a key of this name; all names, if few; how to set it all the same."""
        near = nearest(name, legal, (place for place in self.places(name) if place != key))
        unchecked = f"--set +{key}=… sets it unchecked"
        names = sorted(n for n in legal if n != "type")
        accepted = f"accepted: {', '.join(names)}; " if 0 < len(names) <= SHOWN else ""
        return f"{near} ({accepted}{unchecked})"

    def places(self, name: str) -> list[str]:
        """Where the config has a key of this name, in a part that mmdet reads."""
        legal = (sections.known(self.cfg, "") or ("", {}))[1]
        return [path for path, _ in paths(self.base) if path.rpartition(".")[2] == name and "." in path
                and path.partition(".")[0] in legal and not name.isdecimal()]

    def no_section(self, name: str, legal: Mapping[str, str]) -> str:
        key = next(key for key in self.given if key.partition(".")[0] == name)
        if name not in self.base:
            return f"option {key}: an mmdet config has no {name!r}{self.otherwise(key, name, legal)}"
        wanted, rest = self.base[name], key[len(name):]
        same = [path + rest for path, value in paths(self.base) if path.partition(".")[0] in legal
                and isinstance(wanted, (dict, list)) and value == wanted]
        places = same or self.places(key.rpartition(".")[2]) or self.places(name)
        return (f"option {key}: {name} is a variable of the config, and setting it changes nothing of what was made "
                f"with it{did_you_mean(places[:3])} (--set +{key}=… sets it unchecked)")

    def no_type(self, where: str, name: str, section: str, former: classes.Arguments | None) -> str:
        other = classes.arguments_of(None, name)
        place = f" in the registry {section}, only in {other.section}" if other else ""
        near = nearest(name, [*classes.types_in(former.section if former else section), *self.own.defined])
        return (f"{self.who(where)}: mmdet has no class {name!r}{place}{near} (a class of your own needs "
                "custom_imports and --code)")

    def misspelt(self, name: str, legal: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """A dict at the top under nearly the name of a section, which the config lacks."""
        near = [n for n in difflib.get_close_matches(name, legal, n=1, cutoff=0.85) if n not in self.cfg]
        if near and isinstance(self.cfg[name], (dict, list)):
            yield name, (f"config: {name} is not read by mmdet; did you mean {near[0]}? (If it is a variable of "
                         "yours, give it another name.)")

    def is_added(self, key: str) -> bool:
        """Whether the key, or one above it, was given with a plus."""
        return any(key == one or key.startswith(one + ".") for one in self.added)

    def is_given(self, key: str) -> bool:
        """Whether an option gave the key, one above it, or one below it."""
        return any(key == one or key.startswith(one + ".") or one.startswith(key + ".") for one in self.given)
