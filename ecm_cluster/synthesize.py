"""Write a small synthetic dataset in the LVIS v1 format, to try things without LVIS."""

from __future__ import annotations

import argparse
import glob
import importlib
import os
import secrets
import shutil
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base.errors import UserError, of_place
from .base.files import TMP_MARK, fsync_dir, kill_point, write_json
from .base.reading import OptionalKey, Unreadable, check_inside, read_json
from .console import cli
from .console.progress import shown

if TYPE_CHECKING:
    from .synthetic.dataset import Spec

MANIFEST = "synthetic.json"  # written last; a directory without it was not created by synthesize, and is left alone
_COUNTS = {"images": int, "annotations": int, "classes": int}
_SHAPE = {"arguments": {"classes": int}, "files": {str: {OptionalKey("images"): int, "bytes": int}},
          "train": _COUNTS, "val": _COUNTS, "frequency": {"r": int, "c": int, "f": int}}
REMEDY = "pip install 'ecm-cluster[train]'"

DESCRIPTION = """\
Write a dataset in the LVIS v1 format: textured shapes on cluttered backgrounds, classes with a Zipf distribution
(rare, common and frequent as LVIS defines them), federated annotations.

  OUT/annotations/lvis_v1_{train,val}.json   OUT/train2017/*.jpg   OUT/val2017/*.jpg
"""
EPILOG = """\
The same arguments give the same bytes. OUT is created atomically; a second call with the same arguments keeps a
complete OUT and repairs a damaged one.

example, enough for a small model to learn from in minutes on a CPU:
  python -m ecm_cluster.synthesize data/lvis_synthetic --train-images 600 --val-images 100 --classes 24
"""


def parser() -> argparse.ArgumentParser:
    p = cli.Parser(prog="python -m ecm_cluster.synthesize", description=DESCRIPTION, epilog=EPILOG)
    p.add_argument("out", metavar="OUT", type=Path, help="directory to create: the root of the dataset")
    for name, default, metavar, text in (
            ("--train-images", 600, "N", "training images"),
            ("--val-images", 100, "M", "validation images"),
            ("--classes", 24, "C", "classes, up to 1296"),
            ("--seed", 0, "S", "seed of the random numbers"),
            ("--image-size", 128, "PX", "longer side of an image in pixels")):
        p.add_argument(name, type=int, default=default, metavar=metavar, help=f"{text} (%(default)s)")
    p.add_argument(
        "--min-images", type=int, metavar="K",
        help="minimum number of training images per class (5, or as many as fit)",
    )  # fmt: skip
    p.add_argument(
        "--force", action="store_true", help="replace OUT if it was created with other arguments"
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        # numpy, OpenCV and pycocotools are not installed on a login node, and --help needs none of them
        # one thread, as there is little linear algebra: each allocates a buffer, which a memory limit may not allow
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        importlib.import_module("numpy")  # first: without it, OpenCV prints its own errors
        from .synthetic.dataset import Spec
    except ImportError as error:
        raise UserError(f"synthesize needs numpy, OpenCV and pycocotools ({error}): {REMEDY}") from error

    cli.acts()
    spec = Spec(args.train_images, args.val_images, args.classes, args.seed, args.image_size, args.min_images)
    manifest, outcome = synthesize(args.out, spec, force=args.force)
    _report(args.out, manifest, outcome)
    return cli.EXIT_OK


def synthesize(out: str | os.PathLike, spec: Spec, force: bool = False) -> tuple[dict[str, Any], str]:
    """Create the dataset at ``out`` unless it exists already.

    Args:
        force: Replace what an earlier call created there with other arguments.

    Returns:
        The manifest, and what was done: ``written``, ``repaired`` or ``kept``.

    Raises:
        UserError: ``out`` contains something else, or cannot be written.
    """
    from .synthetic import dataset  # heavy: see main

    try:
        root = Path(out).resolve()
        present = _present(root, spec, force)
        same = present is not None and present["arguments"] == vars(spec)
        if present is not None and same and dataset.intact(root, present):
            return present, "kept"
    except OSError as error:
        raise of_place(f"{out} cannot be read ({error.strerror or error}); use another OUT", error) from None
    owner = f".{root.name}{TMP_MARK}{socket.gethostname()}-"
    tmp = root.with_name(f"{owner}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        _remove_leftovers(root.parent, owner)
        tmp.mkdir(parents=True)
        with shown("drawing", spec.train_images + spec.val_images, "images") as advance:
            manifest = dataset.write(tmp, spec, advance)
        write_json(tmp / MANIFEST, manifest)
        kill_point("before-rename", root)
        _take_place(tmp, root)
    except OSError as error:
        raise of_place(f"{root} cannot be written ({error.strerror or error}); use another OUT", error) from error
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
    return manifest, "repaired" if same else "written"


def _present(root: Path, spec: Spec, force: bool) -> dict[str, Any] | None:
    """The manifest of the dataset at ``root``; None if there is nothing. Refuses anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    try:
        manifest = read_json(root / MANIFEST, _SHAPE)
        for name in manifest["files"]:
            check_inside(root, name, root / MANIFEST, "files")
    except (FileNotFoundError, NotADirectoryError, Unreadable) as error:
        raise UserError(f"{root} contains something that synthesize did not create; use a new directory") from error
    arguments = manifest["arguments"]
    if arguments != vars(spec) and not force:
        differ = [k for k, v in vars(spec).items() if arguments.get(k) != v]
        asked = ", ".join(f"--{k.replace('_', '-')} was {arguments.get(k)}" for k in differ)
        raise UserError(f"{root} was created with other arguments ({asked}); add --force to replace it")
    return manifest


def _remove_leftovers(folder: Path, owner: str) -> None:
    """Remove what killed calls on this host left behind; processes of other hosts may still be running."""
    for left in folder.glob(f"{glob.escape(owner)}*"):
        pid = left.name[len(owner) :].partition("-")[0]
        with suppress(FileNotFoundError):
            if not Path("/proc", pid).exists() and left.lstat().st_uid == os.geteuid():
                shutil.rmtree(left, ignore_errors=True)


def _take_place(tmp: Path, root: Path) -> None:
    """Rename ``tmp`` to ``root``; an existing one is moved aside first, so that a mixture is never visible."""
    old = root.with_name(f"{tmp.name}-old")
    if root.exists():
        os.replace(root, old)
    os.replace(tmp, root)
    fsync_dir(root.parent)
    shutil.rmtree(old, ignore_errors=True)


def _report(out: Path, manifest: dict[str, Any], outcome: str) -> None:
    said = {
        "kept": "already complete, nothing to do",
        "repaired": "was damaged, recreated",
        "written": "written",
    }
    print(f"{out}: {said[outcome]}")
    for split in ("train", "val"):
        part = manifest[split]
        print(f"  {split:<5} {part['images']} images, {part['annotations']} annotations, "
              f"{part['classes']} classes")  # fmt: skip
    groups = manifest["frequency"]
    print(f"  classes by frequency: {groups['r']} rare, {groups['c']} common, {groups['f']} frequent")
    missing = manifest["arguments"]["classes"] - manifest["val"]["classes"]
    if missing:
        print(f"  note: {missing} classes have no validation image; more --val-images give them some")


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
