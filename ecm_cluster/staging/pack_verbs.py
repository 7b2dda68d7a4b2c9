"""``stage pack`` and ``stage verify``: their options, and what they print."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from ..base.errors import UserError, of_place
from ..base.errors import shown as shown_value
from ..base.units import size_text
from ..console import cli
from ..console.progress import rate, shown

THREADS = 32  # as in pack/sources.py: each waits for a round trip most of the time

PACK = """\
Pack the images and annotations of a data root into a few large files, which nodes copy at the speed of the network.

DATA_ROOT holds train2017/, val2017/, … or COCO's zip files of them, and annotations/*.json or LVIS's zip files. Nothing
is unpacked. OUT then replaces DATA_ROOT, which is no longer needed.
"""
PACK_EPILOG = """\
OUT appears as a whole or not at all. A call that was interrupted is resumed by running it again.

example:
  python -m ecm_cluster.stage pack /datasets/lvis_v1 /datasets/lvis_v1.pack
  python -m ecm_cluster.submit --data-root /datasets/lvis_v1.pack
"""
VERIFY = """\
Read every byte of a pack and check it; with --against, compare it with the data root that it was made of. For a node's
scratch: check everything that is staged there, and repair what is damaged from its pack.
"""
SHOWN = 10  # problems that are printed; --json has all


def add_pack(made: argparse.ArgumentParser) -> None:
    made.add_argument("data_root", metavar="DATA_ROOT", type=Path, help="the data to pack")
    made.add_argument("out", metavar="OUT", type=Path, nargs="?", help="the pack to make (DATA_ROOT.pack)")
    made.add_argument("--shard-size", default="1G", metavar="SIZE", help="largest file of images (%(default)s)")
    made.add_argument("--threads", type=int, default=THREADS, metavar="N", help="files read at once (%(default)s)")
    made.add_argument("--strict", action="store_true", help="fail if an image that annotations name does not exist")
    made.add_argument("--replace", action="store_true", help="pack again if OUT is a pack")


def add_verify(made: argparse.ArgumentParser) -> None:
    made.add_argument("pack", metavar="PACK|SCRATCH", type=Path, help="a pack, or the scratch of this node")
    made.add_argument("--against", metavar="DATA_ROOT", type=Path, help="also compare it with this original data")
    made.add_argument("--threads", type=int, default=THREADS, metavar="N", help="blocks read at once (%(default)s)")
    made.add_argument("--json", action="store_true", help="print JSON, with every problem")


def run_pack(args: argparse.Namespace) -> int:
    from ..pack.contents import Options
    from ..pack.make import pack

    root = Path(os.path.normpath(os.path.expanduser(args.data_root)))
    out = Path(os.path.expanduser(args.out or root.absolute().with_name(f"{root.absolute().name}.pack")))
    options = Options(size_of(args.shard_size), checked_threads(args.threads), args.strict, args.replace)
    cli.acts()
    began = time.monotonic()
    try:
        outcome = pack(root, out, options, shown, lambda text: print(text, file=sys.stderr, flush=True))
    except PermissionError as error:
        raise UserError(f"OUT: {out} cannot be written ({error.strerror}); use an OUT that you can write to") from None
    except OSError as error:
        raise of_place(f"OUT: {out} cannot be written ({error.strerror or error}); what is complete is kept: run the "
                       "command again when that is fixed", error) from None
    made, written = outcome.pack, outcome.written
    total = sum(f.size for f in made.files)
    speed = f"; took {time.monotonic() - began:.1f} s, images at {rate(*written)}" if written[0] else ""
    print(f"{out}: {outcome.done}: {made.images} images, {len(made.annotations)} annotation files, {size_text(total)} "
          f"in {len(made.files)} files{speed}")
    cli.say(f"next: python -m ecm_cluster.submit --data-root {out}")
    return cli.EXIT_OK


def run_verify(args: argparse.Namespace) -> int:
    from ..pack.manifest import read
    from ..pack.verify import compare, verify

    pack, threads = read(os.path.expanduser(args.pack)), checked_threads(args.threads)
    if args.against is not None and not os.path.exists(os.path.expanduser(args.against)):
        raise UserError(f"--against: {shown_value(str(args.against))} does not exist; expected the data root of "
                        "the pack")
    began = time.monotonic()
    with shown("verifying", sum(f.size for f in pack.files)) as advance:
        found = verify(pack, advance, threads)
    if args.against is not None:
        with shown("comparing", sum(f.size for f in pack.image_files())) as advance:
            compare(pack, Path(os.path.expanduser(args.against)), found, advance, threads)
    seconds = time.monotonic() - began
    if args.json:
        print(json.dumps({"pack": str(pack.path), "digest": pack.digest, "right": not found.problems,
                          "problems": found.problems, "images": pack.images, "bytes": found.bytes,
                          "compared": found.compared, "seconds": round(seconds, 3)}, indent=1))
    else:
        for problem in found.problems[:SHOWN]:
            print(problem)
        if found.problems:
            print(f"{pack.path}: {len(found.problems)} problems"
                  + (f", the first {SHOWN} above" if len(found.problems) > SHOWN else ""))
        else:
            against = f", equal to {found.compared} files of {args.against}" if args.against is not None else ""
            print(f"{pack.path}: intact: {pack.images} images, {size_text(found.bytes)} read in {seconds:.1f} s"
                  + against)
    return cli.EXIT_FAILED if found.problems else cli.EXIT_OK


def size_of(text: str, what: str = "shard-size") -> int:
    """Bytes of a size such as ``1G`` or ``512K``, which was given to the option ``what``.

    Raises:
        UserError: It is not a size.
    """
    from ..base.units import parse_memory

    small = text.strip().upper().rstrip("B").rstrip("I").endswith("K")
    try:
        # parse_memory supports nothing below a MiB: KiB are read as MiB, and scaled
        return parse_memory(text.upper().replace("K", "M")) << 10 if small else parse_memory(text) << 20
    except ValueError:
        raise UserError(f"invalid --{what}: {text!r}; expected a size such as 1G or 512M") from None


def checked_threads(number: int) -> int:
    if not 1 <= number <= 1024:
        raise UserError(f"invalid --threads: {number}; expected 1 to 1024")
    return number
