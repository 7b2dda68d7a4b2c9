"""``ecm-cluster VERB …``: the same as ``python -m ecm_cluster.VERB …``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from .base.errors import one_of
from .base.version import __version__
from .console import cli

VERBS = {
    "submit": "submit a training run and the evaluation behind it",
    "evaluate": "score checkpoints, also under a grid of test settings",
    "compare": "say which classes two runs detect better or worse",
    "status": "say what every run is doing, and why",
    "cancel": "cancel runs and what waits behind them; they stay resumable",
    "resume": "bring a run back that has ended, was cancelled, or crashed",
    "clean": "delete what a run does not need any more",
    "stage": "pack a data set for fast copies to the nodes, and look after packs and copies",
    "doctor": "say what of this cluster and environment is ok, and what is not",
    "synthesize": "write a synthetic data set in the LVIS v1 format",
    "demo": "the whole main job on this machine, in a few minutes",
}


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        verbs = "\n".join(f"  {name:<12}{text}" for name, text in VERBS.items())
        print(f"usage: ecm-cluster VERB [options]\n\n{verbs}\n\n`ecm-cluster VERB --help` says more of each.")
        return cli.EXIT_OK
    if argv[0] == "--version":
        print(f"ecm-cluster {__version__}")
        return cli.EXIT_OK
    if argv[0] not in VERBS:
        raise one_of("verb", argv[0], VERBS)
    return importlib.import_module(f".{argv[0]}", __package__).main(argv[1:])


def entry() -> int:
    """What the console script calls."""
    return cli.run(main)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
