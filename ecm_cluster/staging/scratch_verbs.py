"""``stage copy``, ``status``, ``gc``, and ``verify`` of what is staged: a node's scratch by hand."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.units import size_text
from ..console import cli
from ..console.progress import shown
from ..pack import manifest
from . import copying, planned
from .pack_verbs import checked_threads, size_of
from .scratch import Scratch

COPY = """\
Copy a pack to this node's scratch before a job needs it, as a job does it, and to where a job looks for it.
"""
STATUS = "What is staged on this node: which packs, how much of each, when it was last used, and whether it is in use."
GC = """\
Remove what is staged on this node and not in use: all of it or, with --room, the least recently used sets until there
is room. What a living process uses stays.
"""
WHERE = "this node's scratch (default: the site file's, $SLURM_TMPDIR, $TMPDIR)"


def add_copy(made: argparse.ArgumentParser) -> None:
    made.add_argument("pack", metavar="PACK", type=Path, help="a pack")
    made.add_argument("scratch", metavar="SCRATCH", nargs="?", help=WHERE)
    made.add_argument("--for", dest="annotation_files", action="append", default=[], metavar="ANNOTATIONS",
                      help="only what these need, such as annotations/lvis_v1_val.json; may be repeated")
    made.add_argument("--annotations-only", action="store_true", help="no images")
    made.add_argument("--threads", type=int, default=8, metavar="N", help="blocks copied at once (%(default)s)")


def add_status(made: argparse.ArgumentParser) -> None:
    made.add_argument("scratch", metavar="SCRATCH", nargs="?", help=WHERE)
    made.add_argument("--json", action="store_true", help="print JSON instead of a table")


def add_gc(made: argparse.ArgumentParser) -> None:
    made.add_argument("scratch", metavar="SCRATCH", nargs="?", help=WHERE)
    made.add_argument("--room", metavar="SIZE", help="stop when this much is freed, e.g. 20G")


def scratch_at(given: str | None) -> Scratch:
    """The scratch that a command line names, or that a job on this node would use."""
    from ..job import job as jobs

    base = planned.scratch_of(planned.plan(jobs.load(None, {"scratch": given} if given else {}), None), os.environ)
    if base is None:
        raise UserError("SCRATCH: missing; expected a directory, or one in the site file, $SLURM_TMPDIR or $TMPDIR")
    return Scratch(base)


def run_copy(args: argparse.Namespace) -> int:
    found, scratch = manifest.read(os.path.expanduser(args.pack)), scratch_at(args.scratch)
    threads = checked_threads(args.threads)
    for name in args.annotation_files:
        if found.annotation(name) is None:
            known = ", ".join(a.name for a in found.annotations) or "none"
            raise UserError(f"for: {name!r} is not in {found.path}; expected one of its annotation files: {known}")
    names = args.annotation_files or [a.name for a in found.annotations]
    wanted = found.needed(names, images=not args.annotations_only) if args.annotation_files or args.annotations_only \
        else list(found.files)
    cli.acts()
    with shown("staging", sum(f.size for f in wanted)) as advance:
        staged = copying.stage(found, wanted, scratch, threads=threads, on_progress=Differences(advance))
    staged.lease.release()
    speed = f", {size_text(staged.copied / max(staged.seconds, 1e-3))}/s" if staged.copied else ""
    print(f"{staged.folder}: {size_text(staged.copied)} copied, {size_text(staged.found)} already there, "
          f"{size_text(staged.repaired)} repaired, in {staged.seconds:.1f} s{speed}")
    return cli.EXIT_OK


class Differences:
    """Turns what is done in all into what was done since the last call, which a progress bar expects."""

    def __init__(self, advance: Any) -> None:
        self.advance, self.done = advance, 0

    def __call__(self, done: int, total: int, what: str) -> None:
        if done > self.done:
            self.advance(done - self.done)
            self.done = done


def run_status(args: argparse.Namespace) -> int:
    scratch = scratch_at(args.scratch)
    sets = scratch.sets()
    if args.json:
        print(json.dumps([{**vars(found), "folder": str(found.folder)} for found in sets], indent=1))
        return cli.EXIT_OK
    if not sets:
        print(f"{scratch.root}: nothing is staged")
        return cli.EXIT_OK
    disk = scratch.filesystem()
    memory = ", in memory" if disk.in_memory else ""
    print(f"{scratch.root}: {size_text(disk.free)} of {size_text(disk.total)} free ({disk.kind}{memory})")
    for found in sets:
        age = size_of_time(time.time() - found.used)
        state = "being copied" if found.copying else "in use" if found.leased else "not in use"
        part = "incomplete, " if found.partial else ""
        print(f"  {found.digest}  {size_text(found.bytes):>9}  {state}, last used {age} ago; {part}{len(found.files)} "
              f"files of {found.pack or 'a pack that is not recorded yet'}")
    return cli.EXIT_OK


def size_of_time(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def run_gc(args: argparse.Namespace) -> int:
    scratch = scratch_at(args.scratch)
    cli.acts()
    removed = scratch.collect(size_of(args.room, "room") if args.room is not None else None)
    for found in removed:
        print(f"removed {found.digest} ({size_text(found.bytes)} of {found.pack or 'an unfinished copy'})")
    left = scratch.sets()
    print(f"{scratch.root}: {size_text(sum(found.bytes for found in removed))} freed; {len(left)} set(s) stay"
          + (", in use" if left and all(found.leased for found in left) else ""))
    return cli.EXIT_OK


def verify_scratch(scratch: Scratch, threads: int) -> int:
    """Check every byte that is staged, and repair it from the packs; exit code 1 where something could not be."""
    code = cli.EXIT_OK
    for found in scratch.sets():
        if not manifest.is_pack(found.pack):
            print(f"{found.digest}: could not be checked: its pack {found.pack or '(not recorded)'} does not exist")
            code = cli.EXIT_FAILED
            continue
        with shown("verifying", found.bytes) as advance:
            try:
                seen = copying.repair(found, manifest.read(found.pack), threads=threads,
                                      on_progress=Differences(advance))
            except UserError as error:
                print(f"{found.digest}: {error}", file=sys.stderr)
                code = cli.EXIT_FAILED
                continue
        wrong = seen.repaired + seen.copied
        result = f"{size_text(wrong)} were wrong or missing, and repaired" if wrong else "right"
        print(f"{found.digest}: {size_text(wrong + seen.found)} of {found.pack}: {result}")
    return code
