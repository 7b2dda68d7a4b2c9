"""Import this module, and everything in the package is registered into mmdet (``custom_imports`` does it)."""

from __future__ import annotations

from mmdet_ext import assigners, balanced, datasets, ecm_loss, runner

__all__ = ["assigners", "balanced", "datasets", "ecm_loss", "runner"]
