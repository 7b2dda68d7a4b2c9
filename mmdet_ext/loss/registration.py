"""Registering under names that a fork of mmdet may have taken already."""

from __future__ import annotations

import warnings
from typing import Any, Callable, TypeVar

Class = TypeVar("Class", bound=type)


def takes_its_name(registry: Any) -> Callable[[Class], Class]:
    """A decorator that registers a class under its name, whoever has that name.

    The forks of mmdet that the ECM loss comes from register losses of these names as soon as mmdet is imported. A
    config that imports ``mmdet_ext.register`` asks for ours, so ours takes the name, and a warning says so; a config
    that does not import it keeps the fork's.
    """
    def register(cls: Class) -> Class:
        other = registry.module_dict.get(cls.__name__)
        if other is not None and other.__module__ != cls.__module__:
            warnings.warn(f"{cls.__name__}: that of {cls.__module__} is used, not that of "
                          f"{other.__module__}; to use that one, leave mmdet_ext.register out of custom_imports",
                          stacklevel=2)
        registry.register_module(module=cls, force=True)
        return cls
    return register
