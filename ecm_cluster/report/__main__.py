"""``python -m ecm_cluster.report``."""

from __future__ import annotations

from ..console import cli
from . import main

if __name__ == "__main__":
    raise SystemExit(cli.run(main))
