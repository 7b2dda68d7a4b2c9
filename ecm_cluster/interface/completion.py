"""Completion scripts for shells, made by shtab from the verbs' own parsers."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ..base.errors import UserError, one_of
from ..console import cli
from ..job.job import OPTIONS
from ..job.option import PATH

SHELLS = ("bash", "zsh", "tcsh")
DIRECTORIES = ("code", "data_root", "runs_dir", "scratch")
FILES = ("csv", "output", "sweep")
# Run names come from the directory itself, so that no key press starts Python; a --runs-dir typed before counts.
BASH = """
_ecm_cluster_runs_dir() {
  local i
  for ((i = 1; i < COMP_CWORD; i++)); do
    [ "${COMP_WORDS[i]}" = --runs-dir ] && { printf '%s' "${COMP_WORDS[i+1]}"; return; }
  done
  printf '%s' RUNS_DIR
}
_ecm_cluster_runs() {
  local folder path
  folder=$(_ecm_cluster_runs_dir)
  for path in "${folder/#\\~/$HOME}/$1"*/run.json; do
    [ -e "$path" ] && { path=${path%/run.json}; printf '%s\\n' "${path##*/}"; }
  done
  compgen -d -- "$1"
}
_ecm_cluster_jobs() {
  compgen -W 'JOBS' -- "$1"
  compgen -f -X '!*.yaml' -- "$1"
  compgen -d -- "$1"
}
"""
ZSH = """
_ecm_cluster_runs() {
  local folder=RUNS_DIR at=${words[(I)--runs-dir]}
  (( at )) && folder=${words[at+1]}
  local -a names=(${~folder}/*/run.json(N:h:t))
  compadd -a names
  _files -/
}
_ecm_cluster_jobs() {
  compadd JOBS
  _files -g '*.yaml'
}
"""
RUN = {"bash": "_ecm_cluster_runs", "zsh": "_ecm_cluster_runs", "tcsh": "d"}
JOB = {"bash": "_ecm_cluster_jobs", "zsh": "_ecm_cluster_jobs", "tcsh": "f"}


def script(shell: str, verbs: Mapping[str, tuple[str, cli.Parser]], runs_dir: str,
           job_names: Sequence[str]) -> str:
    """The script of a shell.

    Args:
        verbs: What each does, in a few words, and its parser.
        runs_dir: Where the names of runs are looked up, unless ``--runs-dir`` is typed.
        job_names: The names of the shipped job files.

    Raises:
        UserError: There is none, or shtab is not installed.
    """
    if shell not in SHELLS:
        raise one_of("print-completion", shell, SHELLS)
    try:
        import shtab
    except ImportError:
        raise UserError("print-completion: shtab is not installed; pip install 'ecm-cluster[completion]'") from None
    whole = cli.Parser(prog="ecm-cluster")
    several = whole.add_subparsers(dest="verb")
    for name, (text, parser) in verbs.items():
        for action in parser._actions:
            _mark(action, shtab.FILE, shtab.DIRECTORY)
        several.add_parser(name, help=text, description=text, parents=[parser], add_help=False)
    preamble = {"bash": BASH, "zsh": ZSH, "tcsh": ""}[shell]
    preamble = preamble.replace("RUNS_DIR", shlex.quote(runs_dir)).replace("JOBS", " ".join(sorted(job_names)))
    return shtab.complete(whole, shell, preamble=preamble)


def _mark(action: argparse.Action, file: Any, directory: Any) -> None:
    """Say what an argument stands for: shtab reads that from an attribute."""
    option = OPTIONS.get(action.dest)
    if action.metavar == "RUN":
        action.complete = RUN  # type: ignore[attr-defined]
    elif action.metavar == "JOB":
        action.complete = JOB  # type: ignore[attr-defined]
    elif action.dest in DIRECTORIES:
        action.complete = directory  # type: ignore[attr-defined]
    elif action.dest in FILES or (option is not None and option.reader is PATH):
        action.complete = file  # type: ignore[attr-defined]
