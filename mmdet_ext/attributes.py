"""What a model keeps of its training in plain Python values, which no ``state_dict`` holds.

YOLOX counts its forward passes and remembers the size that it last drew, Dynamic R-CNN keeps a history of overlaps and
sets its assigner's thresholds and its loss's beta by it. Without these, a resumed training goes another way.

Covered: numbers, strings and (nested) lists and tuples of them, as attributes of modules and of the assigners and
samplers that modules hold. Not covered: attributes of torch's and mmcv's own modules, and other objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from mmdet.core.bbox.assigners import BaseAssigner
from mmdet.core.bbox.samplers import BaseSampler

_OF_EVERY_MODULE = frozenset(vars(torch.nn.Module()))
_LIBRARIES = ("torch", "mmcv")
_ABSENT = object()


def _plain(value: Any) -> Any:
    """A copy of a plain value, numpy's numbers as Python's; ``_ABSENT`` for any other."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if type(value) in (list, tuple):
        items = [_plain(item) for item in value]
        return _ABSENT if any(item is _ABSENT for item in items) else type(value)(items)
    return _ABSENT


def _holders(model: torch.nn.Module) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, module in model.named_modules():
        if type(module).__module__.partition(".")[0] in _LIBRARIES:
            continue
        yield name, vars(module)
        for key, held in vars(module).items():
            for at, one in enumerate(held if isinstance(held, list) else [held]):
                if isinstance(one, (BaseAssigner, BaseSampler)):
                    yield f"{name}.{key}.{at}", vars(one)


class Attributes:
    """The plain attributes of a model that have changed since this object was made.

    Args:
        model: The model itself, not its wrapper, as it was built.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self._first = self._read()

    def changed(self) -> dict[str, Any]:
        """Values by ``holder:attribute``, copied: plain types alone."""
        return {name: value for name, value in self._read().items() if self._first.get(name, _ABSENT) != value}

    def put(self, values: Mapping[str, Any]) -> None:
        """Set what :meth:`changed` returned, and put everything else back to what it was at first."""
        wanted = {**{name: self._first[name] for name in self.changed() if name in self._first}, **values}
        for holder, attributes in _holders(self.model) if wanted else ():
            for key in attributes.keys() - _OF_EVERY_MODULE:
                value = wanted.get(f"{holder}:{key}", _ABSENT)
                if value is not _ABSENT:
                    attributes[key] = _plain(value)

    def _read(self) -> dict[str, Any]:
        found = {}
        for holder, attributes in _holders(self.model):
            for key, value in attributes.items():
                copied = _ABSENT if key in _OF_EVERY_MODULE else _plain(value)
                if copied is not _ABSENT:
                    found[f"{holder}:{key}"] = copied
        return found
