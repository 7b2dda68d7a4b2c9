"""The page about a run, or about several beside each other."""

from __future__ import annotations

from .verb import main as main
from .verb import parser as parser
