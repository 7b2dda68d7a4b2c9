"""The log of a run."""

from __future__ import annotations

from .verb import main as main
from .verb import parser as parser
