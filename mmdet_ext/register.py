"""Import this module, and everything in the package is registered into mmdet (``custom_imports`` does it)."""

from __future__ import annotations

from .data import balanced, datasets
from .loss import assigners, ecm_loss
from .runners import runner

__all__ = ["assigners", "balanced", "datasets", "ecm_loss", "runner"]
