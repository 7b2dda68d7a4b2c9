"""What all verbs share: exit codes, one-line errors, output that survives a closed pipe.

A verb is a module with ``parser() -> ArgumentParser`` and ``main(argv) -> int``. Nothing heavy is imported at
its top, so that ``--help`` answers at once on a login node without torch.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from typing import TextIO

from .errors import UserError

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
MODULE, SCRIPT = "python -m ecm_cluster.", "ecm-cluster "


def as_typed(text: str) -> str:
    """``text`` with its command lines in the form in which the user called this program.

    Messages are written with ``python -m ecm_cluster.VERB``, which always works; who typed ``ecm-cluster VERB`` reads
    that.
    """
    called_by_script = os.path.basename(sys.argv[0]) == SCRIPT.strip()
    return text.replace(MODULE, SCRIPT) if called_by_script else text


def say(text: str, file: TextIO | None = None) -> None:
    """Print a text that holds command lines for the user to type."""
    print(as_typed(text), file=file)


class Parser(argparse.ArgumentParser):
    """argparse, with errors of one line: what is wrong, then where to read more."""

    def __init__(self, **kwargs) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        for name in ("prog", "epilog"):
            kwargs[name] = as_typed(kwargs.get(name) or "") or None
        super().__init__(**kwargs)

    def error(self, message: str):  # noqa: D102 (argparse's own)
        unknown = message.partition("unrecognized arguments: ")[2].split(" ")[0]
        near = difflib.get_close_matches(unknown, self._option_string_actions, n=1) if unknown else []
        hint = f"; did you mean {near[0]}?" if near else ""
        self.exit(EXIT_USAGE, f"error: {message}{hint} (see {self.prog} --help)\n")


def run(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Call a verb's ``main`` and turn what it raises into an exit code.

    Returns:
        The verb's own code; 2 after a :class:`UserError` (printed as one line); 130 after Ctrl-C.
    """
    try:
        return main(argv)
    except UserError as error:
        say(f"error: {' '.join(str(error).split())}", sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # `status | head` closes the pipe; the interpreter would complain once more while it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
