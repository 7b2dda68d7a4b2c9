"""Groups of runs that differ in a few settings: ``submit --vary``."""

from __future__ import annotations

from .group import expand as expand
from .group import find as find
from .group import members as members
