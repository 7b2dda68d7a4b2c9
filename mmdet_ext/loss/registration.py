"""Registers classes under names that a fork of mmdet may already use."""

from __future__ import annotations

import warnings
from typing import Any, Callable, TypeVar

Class = TypeVar("Class", bound=type)


def takes_its_name(registry: Any) -> Callable[[Class], Class]:
    """A decorator that registers a class under its name, even if the name is taken.

    The forks of mmdet by the authors of the ECM loss register losses with these names when mmdet is imported. A config
    that imports ``mmdet_ext.register`` requests ours, so it replaces the fork's, with a warning; other configs keep
    the fork's.
    """
    def register(cls: Class) -> Class:
        other = registry.module_dict.get(cls.__name__)
        if other is not None and other.__module__ != cls.__module__:
            warnings.warn(f"{cls.__name__}: {cls.__module__} replaces {other.__module__}; to use the latter, remove "
                          "mmdet_ext.register from custom_imports", stacklevel=2)
        registry.register_module(module=cls, force=True)
        return cls
    return register
