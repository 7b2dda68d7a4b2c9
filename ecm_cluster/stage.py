"""Make data available at the speed of a node's disk: pack it once, then show, verify or remove what is staged."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from .base.errors import MISTAKES, Failed, UserError
from .console import cli
from .pack.manifest import is_pack
from .staging import pack_verbs, scratch_verbs
from .staging.scratch import Scratch


def verify(args: argparse.Namespace) -> int:
    """Verify a pack, or what is staged on a scratch directory."""
    scratch = Scratch(Path(os.path.expanduser(args.pack)))
    if scratch.sets() and not is_pack(scratch.base):
        return scratch_verbs.verify_scratch(scratch, pack_verbs.checked_threads(args.threads))
    return pack_verbs.run_verify(args)


def parser() -> argparse.ArgumentParser:
    made = cli.Parser(prog="python -m ecm_cluster.stage", description=__doc__)
    several = made.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text, description, epilog, add_options, act in (
            ("pack", "pack a data root into a few large files", pack_verbs.PACK, pack_verbs.PACK_EPILOG,
             pack_verbs.add_pack, pack_verbs.run_pack),
            ("copy", "copy a pack to this node's scratch", scratch_verbs.COPY, "", scratch_verbs.add_copy,
             scratch_verbs.run_copy),
            ("status", "show what is staged on this node", scratch_verbs.STATUS, "", scratch_verbs.add_status,
             scratch_verbs.run_status),
            ("gc", "remove what is staged on this node and not in use", scratch_verbs.GC, "", scratch_verbs.add_gc,
             scratch_verbs.run_gc),
            ("verify", "check every byte of a pack, or of what is staged", pack_verbs.VERIFY, "",
             pack_verbs.add_verify, verify)):
        command = several.add_parser(name, help=text, description=description, epilog=epilog)
        add_options(command)
        command.set_defaults(act=act)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        return args.act(args)
    except OSError as error:
        if error.filename is None or error.errno not in MISTAKES:
            raise
        raise UserError(f"{error.filename}: {error.strerror}; use another path") from None
    except RuntimeError as error:
        if "thread" not in str(error):
            raise
        raise Failed(f"{error}; use fewer --threads, or raise the limits on processes and memory (ulimit -u, -v)"
                     ) from None


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
