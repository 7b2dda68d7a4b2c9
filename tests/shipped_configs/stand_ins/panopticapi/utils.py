"""Segment ids to colours and back."""

from __future__ import annotations

import numpy as np


def rgb2id(color: np.ndarray) -> np.ndarray:
    """Ids (height, width) of a picture (height, width, 3)."""
    return color.astype(np.int32) @ np.array([1, 256, 65536], dtype=np.int32)


def id2rgb(ids: np.ndarray) -> np.ndarray:
    """The picture (height, width, 3) of ids (height, width)."""
    return np.stack([ids >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)
