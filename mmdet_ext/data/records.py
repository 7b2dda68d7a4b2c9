"""The records of a dataset's images as a list whose entries are made on access."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Sequence

import numpy as np

from .annotations import Columns


class Records(Sequence[Any]):
    """The dict of each image, with its ``filename``, made on access; otherwise like a list of dicts.

    Args:
        images: (N,) places of the images, int.
        name: from a record with the names of an image's file to ``filename``; a function of a module, for pickle.
    """

    def __init__(self, source: Columns, images: np.ndarray, name: Callable[[dict[str, Any]], str]) -> None:
        self.source, self.images, self.name = source, images, name

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Records(self.source, self.images[index], self.name)
        record = self.source.record(int(self.images[index]))
        record["filename"] = self.name(record)
        return record

    def take(self, places: Sequence[int]) -> Records:
        """Those at ``places``, in that order."""
        return Records(self.source, self.images[np.asarray(places, np.int64)], self.name)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (list, Records)):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other))

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __add__(self, other: Sequence[Any]) -> list[Any]:
        return [*self, *other]

    def __radd__(self, other: Sequence[Any]) -> list[Any]:
        return [*other, *self]

    def __repr__(self) -> str:
        return repr(list(self))
