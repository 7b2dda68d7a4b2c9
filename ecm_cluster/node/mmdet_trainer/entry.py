"""Where a job enters that names no trainer: the framework is imported the cheap way, then its trainer."""

from __future__ import annotations

from . import imports

imports.framework()

from .trainer import make  # noqa: E402

__all__ = ["make"]
