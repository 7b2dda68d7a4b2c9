"""What differs between two runs, and between a run and the config that it was made from."""

from __future__ import annotations

from .verb import main as main
from .verb import parser as parser
