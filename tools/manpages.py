"""Write man pages of all verbs, from their own parsers: ``python -m tools.manpages [FOLDER]``; ``make man`` calls it.

They are written here rather than by a package, which would be one more to pin for these lines.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

from ecm_cluster.__main__ import VERBS
from ecm_cluster.base.version import __version__

FOLDER = "build/man/man1"


def main(words: list[str]) -> int:
    folder = Path(words[0] if words else FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    pages = {f"ecm-cluster-{name}": page(name, text, importlib.import_module(f"ecm_cluster.{name}").parser())
             for name, text in VERBS.items()}
    for name, text in {"ecm-cluster": overview(), **pages}.items():
        (folder / f"{name}.1").write_text(text, encoding="utf-8")
    print(f"wrote {len(pages) + 1} pages to {folder}; MANPATH={folder.resolve().parent}: man ecm-cluster-status")
    return 0


def overview() -> str:
    lines = [*_head("ecm-cluster", "train long-tail detectors on preemptible Slurm GPUs"), ".SH SYNOPSIS",
             ".B ecm\\-cluster", ".I VERB", "[options]", ".SH VERBS"]
    for name, text in VERBS.items():
        lines += [".TP", f".BR ecm\\-cluster\\-{_plain(name)} (1)", _plain(text)]
    return "\n".join([*lines, ""])


def page(name: str, summary: str, parser: argparse.ArgumentParser) -> str:
    """The page of one verb."""
    parser.prog = f"ecm-cluster {name}"
    usage = parser.format_usage()
    lines = [*_head(f"ecm-cluster-{name}", summary), ".SH SYNOPSIS", *_verbatim(usage.partition(": ")[2]),
             ".SH DESCRIPTION", *_text(parser.description or ""), *_options(parser, ".SH OPTIONS")]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command, below in action.choices.items():
                lines += [f".SH COMMAND {_plain(command.upper())}", *_text(below.description or ""),
                          *_options(below, ".PP")]
    if parser.epilog:
        lines += [".SH NOTES", *_verbatim(parser.epilog.replace("python -m ecm_cluster.", "ecm-cluster "))]
    return "\n".join([*lines, ".SH SEE ALSO", ".BR ecm\\-cluster (1)", ""])


def _head(name: str, summary: str) -> list[str]:
    return [f'.TH "{name.upper()}" "1" "" "ecm\\-cluster {__version__}" ""', ".SH NAME",
            f"{_plain(name)} \\- {_plain(summary)}"]


def _options(parser: argparse.ArgumentParser, heading: str) -> Iterator[str]:
    yield heading
    formatter = parser._get_formatter()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) or action.help == argparse.SUPPRESS:
            continue
        yield ".TP"
        yield f"\\fB{_plain(formatter._format_action_invocation(action))}\\fR"
        yield _plain(formatter._expand_help(action)) if action.help else "\\&"


def _text(text: str) -> list[str]:
    return [line for part in text.strip().split("\n\n") for line in (".PP", _plain(" ".join(part.split())))]


def _verbatim(text: str) -> list[str]:
    return [".nf", *(_plain(line) or "\\&" for line in text.strip("\n").splitlines()), ".fi"]


def _plain(text: str) -> str:
    """Text that roff prints as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = "".join(c if c.isascii() else f"\\[u{ord(c):04X}]" for c in text)
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
