"""The ECM losses and what the originals computed, for every test that compares them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).resolve().parent
CASES = sorted(p.stem for p in GOLDEN.glob("*.npz"))
NAMES = {
    "cho": "EffectiveClassMarginLoss",
    "nick": "EffectiveClassMarginLossNick",
    "nick_bg": "EffectiveClassMarginLossNickWAuthorBgHandling",
}
COUNTS = [50552, 1203, 100, 10, 2, 1]


def golden(case: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{case}.npz") as data:
        return dict(data)


def built(name: str, counts: Any = COUNTS, **kwargs: Any) -> Any:
    """The registered loss of a name, such as ``EffectiveClassMarginLoss``."""
    from mmdet.models.builder import build_loss

    import mmdet_ext.register  # noqa: F401

    return build_loss({"type": name, "class_counts": [int(n) for n in counts], **kwargs})
