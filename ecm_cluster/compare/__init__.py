"""Which classes two runs detect better or worse."""

from __future__ import annotations

from .verb import main as main
from .verb import parser as parser
