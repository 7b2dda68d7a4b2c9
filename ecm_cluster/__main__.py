"""``ecm-cluster VERB …``: the same as ``python -m ecm_cluster.VERB …``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from .base.errors import UserError, one_of
from .base.version import __version__
from .console import cli

VERBS = {
    "submit": "submit a training run and its evaluation",
    "evaluate": "score checkpoints, also under a grid of test settings",
    "compare": "show which classes two runs detect better or worse",
    "diff": "show what differs between two runs: config, code, versions, data",
    "report": "make the page about a run, or about several beside each other",
    "status": "show what every run is doing, and why",
    "logs": "print the log of a run, a rank, or an evaluation; follow it",
    "cancel": "cancel runs with their evaluations; they stay resumable",
    "resume": "resume a run that ended, was cancelled, or crashed",
    "clean": "list what runs no longer need, and delete it",
    "archive": "pack a run into one file, without its checkpoints",
    "stage": "pack a dataset for fast copies to the nodes; manage packs and copies",
    "doctor": "check this cluster and environment",
    "synthesize": "write a synthetic dataset in the LVIS v1 format",
    "demo": "run the complete workflow on this machine, in a few minutes",
}


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        verbs = "\n".join(f"  {name:<12}{text}" for name, text in VERBS.items())
        print(f"usage: ecm-cluster VERB [options]\n\n{verbs}\n\n`ecm-cluster VERB --help` describes each; "
              "--version, --print-completion SHELL.")
        return cli.EXIT_OK
    if argv[0] == "--version":
        print(f"ecm-cluster {__version__}")
        return cli.EXIT_OK
    if argv[0] == "--print-completion":
        print(completion(argv[1:]))
        return cli.EXIT_OK
    if argv[0] not in VERBS:
        raise one_of("verb", argv[0], VERBS)
    return importlib.import_module(f".{argv[0]}", __package__).main(argv[1:])


def completion(words: Sequence[str]) -> str:
    """The completion script of the shell that is named."""
    from .interface import completion
    from .job import job
    from .mmconfig import shipped

    if len(words) != 1:
        raise UserError(f"print-completion: expected one of {', '.join(completion.SHELLS)}")
    verbs = {name: (text, importlib.import_module(f".{name}", __package__).parser()) for name, text in VERBS.items()}
    return completion.script(words[0], verbs, job.load(None, {}).runs_dir, shipped.job_names())


def entry() -> int:
    """Entry point of the console script."""
    return cli.run(main)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
