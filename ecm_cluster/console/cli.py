"""What all verbs share: exit codes, one-line errors, output to a pipe that may be closed.

A verb is a module with ``parser() -> ArgumentParser`` and ``main(argv) -> int``. It imports nothing heavy at the top:
``--help`` must be fast, and work on a login node without torch.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TextIO

from ..base import folders, units
from ..base.errors import Failed, UserError
from . import output, program

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2  # the last is argparse's own for a wrong option
MODULE, SCRIPT = "python -m ecm_cluster.", "ecm-cluster "
_acts = False


def as_typed(text: str) -> str:
    """``text`` with its command lines in the form that the user typed.

    Messages contain ``python -m ecm_cluster.VERB``, which always works; a user of ``ecm-cluster VERB`` sees that.
    """
    called_by_script = os.path.basename(sys.argv[0]) == SCRIPT.strip()
    return text.replace(MODULE, SCRIPT) if called_by_script else text


def say(text: str, file: TextIO | None = None) -> None:
    """Print a text that contains command lines."""
    print(as_typed(text), file=file)


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors: what is wrong, and where the help is."""

    def __init__(self, **kwargs) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        for name in ("prog", "epilog"):
            kwargs[name] = as_typed(kwargs.get(name) or "") or None
        super().__init__(**kwargs)
        for kind, reader in ((None, units.utf8), (str, units.utf8), (Path, units.path), (int, units.whole),
                             (float, units.number)):
            self.register("type", kind, reader)

    def _get_values(self, action, arg_strings):  # noqa: D102 (argparse's own)
        if action.option_strings and action.nargs is None and arg_strings == ["--"]:  # argparse would return a list
            raise argparse.ArgumentError(action, "expected one argument")
        return super()._get_values(action, arg_strings)

    def error(self, message: str):  # noqa: D102 (argparse's own)
        unknown = message.partition("unrecognized arguments: ")[2].split(" ")[0]
        near = difflib.get_close_matches(unknown, self._option_string_actions, n=1) if unknown else []
        hint = f"; did you mean {near[0]}?" if near else ""
        self.exit(EXIT_USAGE, f"error: {program.one_line(message)}{hint} (see {self.prog} --help)\n")


def check_writable(option: str, given: str) -> None:
    """Check before any work is done that a file given on the command line can be written later.

    Raises:
        UserError: It cannot.
    """
    path = folders.absolute(given)
    try:
        os.stat(f"{path.parent}/")
        if path.is_dir():
            raise UserError(f"{option}: {path} is a directory; expected a file")
        if not os.access(path if path.exists() and not path.is_file() else path.parent, os.W_OK):
            raise UserError(f"{option}: no permission to write {path}; use another file")
    except OSError as error:
        raise UserError(f"{option}: {error.filename}: {error.strerror}; use another file") from None


@contextlib.contextmanager
def opened(option: str, given: str) -> Iterator[IO[bytes]]:
    """Open the file of an option such as ``--csv``: it is replaced at the end, unless it is a pipe or a device.

    Raises:
        UserError: It cannot be written.
    """
    from ..base import files

    path = folders.absolute(given)
    try:
        special = path.exists() and not path.is_file()
        with open(path, "wb") if special else files.replacing(path) as handle:
            yield handle
    except OSError as error:
        raise UserError(f"{option}: {path}: {error.strerror or error}; use another file") from None


def write_file(option: str, given: str, text: str) -> None:
    """Write the file of an option.

    Raises:
        UserError: It cannot be written.
    """
    with opened(option, given) as handle:
        handle.write(text.encode())


def acts() -> None:
    """Declare that this call changes something: it then succeeds even if its output cannot be written."""
    global _acts
    _acts = True


def run(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Call a verb's ``main`` and turn any exception into an exit code and one line.

    Returns:
        The verb's own code; 2 after a :class:`UserError`; 1 after any other exception, or if the output was the purpose
        of the call and could not be written; 128 plus the signal number after a signal, e.g. 130 after Ctrl-C.
    """
    global _acts
    _acts = False
    with output.Streams() as streams:
        code = _ended(main, argv)
        streams.flush()
        if streams.lost is not None:
            word = "warning" if _acts or code else "error"
            print(f"{word}: standard output: {program.describe(streams.lost)}", file=sys.stderr)
            code = code or (EXIT_OK if _acts else EXIT_FAILED)
    program.over()
    return code


def _ended(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None) -> int:
    if program.is_verb():
        program.working_as_a_verb()
    try:
        try:
            program.working = True
            return main(argv)
        finally:
            program.working = False
    except SystemExit as end:  # argparse
        return end.code if isinstance(end.code, int) else EXIT_FAILED if end.code else EXIT_OK
    except UserError as error:
        say(f"error: {program.one_line(error)}", sys.stderr)
        return EXIT_FAILED if isinstance(error, Failed) else EXIT_USAGE
    except RuntimeError as error:
        if "home directory" not in str(error):  # pathlib's, of a path such as ~nobody/x
            program.report(error)
            return EXIT_FAILED
        say("error: the home directory of a path with ~ is unknown; use an absolute path, or set HOME", sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt as end:
        number = signal.Signals(end.args[0] if end.args else signal.SIGINT)
        print(program.ENDINGS[number], file=sys.stderr)
        return 128 + number
    except Exception as error:
        program.report(error)
        return EXIT_FAILED
