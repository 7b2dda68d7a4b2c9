"""Bring data to the speed of a node's disk: pack it once, see what is staged, check it, remove it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from .base.errors import MISTAKES, Failed, UserError
from .console import cli
from .pack.manifest import is_pack
from .staging import pack_verbs, scratch_verbs
from .staging.scratch import Scratch


class Command(NamedTuple):
    """What a word behind ``stage`` does: a line of help, more of it, its options, its function."""

    help: str
    description: str
    epilog: str
    options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def verify(args: argparse.Namespace) -> int:
    """Check a pack, or what is staged in a scratch."""
    scratch = Scratch(Path(os.path.expanduser(args.pack)))
    if scratch.sets() and not is_pack(scratch.base):
        return scratch_verbs.verify_scratch(scratch, pack_verbs.checked_threads(args.threads))
    return pack_verbs.run_verify(args)


COMMANDS = {
    "pack": Command("pack a data root into a few large files", pack_verbs.PACK, pack_verbs.PACK_EPILOG,
                    pack_verbs.add_pack, pack_verbs.run_pack),
    "copy": Command("copy a pack to this node's scratch", scratch_verbs.COPY, "", scratch_verbs.add_copy,
                    scratch_verbs.run_copy),
    "status": Command("say what is staged on this node", scratch_verbs.STATUS, "", scratch_verbs.add_status,
                      scratch_verbs.run_status),
    "gc": Command("remove what is staged on this node and not in use", scratch_verbs.GC, "", scratch_verbs.add_gc,
                  scratch_verbs.run_gc),
    "verify": Command("check every byte of a pack, or of what is staged", pack_verbs.VERIFY, "", pack_verbs.add_verify,
                      verify),
}


def parser() -> argparse.ArgumentParser:
    made = cli.Parser(prog="python -m ecm_cluster.stage", description=__doc__)
    several = made.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        command.options(several.add_parser(name, help=command.help, description=command.description,
                                           epilog=command.epilog))
    return made


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        return COMMANDS[args.command].run(args)
    except OSError as error:
        if error.filename is None or error.errno not in MISTAKES:
            raise
        raise UserError(f"{error.filename}: {error.strerror}; give another path") from None
    except RuntimeError as error:
        if "thread" not in str(error):
            raise
        raise Failed(f"{error}; give fewer --threads, or raise the limits of processes and memory (ulimit -u, -v)"
                     ) from None


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
