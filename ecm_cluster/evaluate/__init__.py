"""Score checkpoints, optionally under a grid of test settings; what has been scored is not scored again."""

from __future__ import annotations

from .arguments import parser as parser
from .verb import main as main
