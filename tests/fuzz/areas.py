"""What a case can be about, and how often: each function gives a case its input and its command line.

``invalid`` is set only where every reader would agree.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import configs, files, places, typed
from .case import Case
from .places import CLASSES
from .typed import cluster

# ----------------------------------------------------------------------------------------------------- configs


def config(case: Case) -> None:
    path = case.work / "mine.py"
    case.argv = ["submit", "--config", str(path), *cluster(case), "--device", "cpu", "--dry-run",
                 "--data-root", str(case.library.data)]
    configs.write(case, path)
    if case.rng.random() < 0.1:
        case.argv = ["evaluate", str(case.library.checkpoint), "--config", str(path), "--dry-run",
                     "--data-root", str(case.library.data)]
        case.invalid = False  # refused by --dry-run in any case
        case.names.append("dry-run")


def option(case: Case) -> None:
    """--set"""
    case.argv = ["submit", "--config", str(case.library.folder / "demo.py"), *cluster(case), "--device", "cpu",
                 "--dry-run", "--data-root", str(case.library.data)]
    for _ in range(case.choose([1, 1, 2])):
        configs.option(case)


# ------------------------------------------------------------------------------------- annotations, data roots


def annotations(case: Case) -> None:
    """The annotation file of a data root, for submit or for a pack."""
    root = case.copy(case.library.data, "data")
    path = root / "annotations" / f"lvis_v1_{case.choose(['train', 'val'])}.json"
    for _ in range(case.choose([1, 1, 2])):
        if path.is_file() and case.rng.random() < 0.2:
            files.damage(case, path, "json")
        elif path.is_file() and files.is_tree(path.read_bytes()):
            tops = case.rng.random() < 0.2
            files.change_json(case, path, only=("images", "annotations", "categories") if tops else ())
            case.invalid |= tops and case.kinds[-1] == "json value dropped"
    if case.rng.random() < 0.1:
        files.mistreat(case, path, "annotations")
        case.invalid = True
    _use_data(case, root)


def _use_data(case: Case, root: Path) -> None:
    case.names += ["annotations", "data.train", "data.val", "data.test"]
    if case.rng.random() < 0.7:
        case.argv = ["submit", "--config", str(case.library.folder / "demo.py"), "--cluster", "local", "--device",
                     "cpu", "--data-root", str(root), *CLASSES, "--dry-run"]
    else:
        case.argv = ["stage", "pack", str(root), str(case.work / "out.pack"), "--threads", "2",
                     *case.choose([[], ["--strict"]])]
        case.invalid = False  # a pack may hold what no training reads


def data_root(case: Case) -> None:
    """Images and archives of a data root that is packed."""
    root = case.copy(case.library.data, "data")
    image = case.choose(sorted((root / "train2017").iterdir()))
    kind = case.choose(["file", "bytes", "archive", "archive"])
    if kind == "file":
        files.mistreat(case, image, "an image")
    elif kind == "bytes":
        files.damage(case, image, "binary")
    else:
        _archive(case, root)
    case.argv = ["stage", "pack", str(root), str(case.work / "out.pack"), "--threads", "2",
                 *case.choose([[], ["--strict"]])]
    case.names += ["train2017", "annotations"]


def _archive(case: Case, root: Path) -> None:
    """A zip file instead of the folder of images or beside the annotations."""
    images = sorted((root / "train2017").iterdir())
    path = root / case.choose(["train2017.zip", "annotations/lvis_v1_train.json.zip"])
    inside = case.choose(["right", "bomb", "leads out", "NUL", "long name", "twice", "folder", "no UTF-8"])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        if inside == "bomb":
            archive.writestr("train2017/a.jpg" if "train2017" in path.name else "lvis_v1_train.json", bytes(1 << 26))
        names = {"leads out": "../../outside.jpg", "NUL": "train2017/a\0b.jpg", "long name": "train2017/" + "x" * 5000,
                 "folder": "train2017/a.jpg/", "no UTF-8": "train2017/\u00e9.jpg"}
        for image in images[:4]:
            archive.write(image, f"train2017/{image.name}")
        if inside in names:
            archive.writestr(names[inside], images[0].read_bytes())
    case.changed(f"an archive: {inside}", names=[path.name])
    if case.rng.random() < 0.5:
        files.damage(case, path, "binary")


# -------------------------------------------------------------------------------------------- packs, scratches


def pack(case: Case) -> None:
    pack = case.copy(case.library.pack, "data.pack")
    names = sorted(path for path in pack.rglob("*") if path.is_file())
    path = case.choose([pack / "pack.json"] * len(names) + [pack / "index.bin"] * 3 + names)
    roll = case.rng.random()
    before = path.read_bytes()
    if roll < 0.15:
        files.mistreat(case, path, "a file of a pack")
    elif path.name == "pack.json" and roll < 0.8:
        files.change_json(case, path)
    else:
        files.damage(case, path, {".json": "json"}.get(path.suffix, "binary"))
    changed = not path.is_file() or path.read_bytes() != before
    case.names += ["data.pack", "pack.json"]
    verb = case.choose(["verify", "verify", "copy", "copy", "submit"])
    if verb == "submit":
        case.argv = ["submit", "--config", str(case.library.folder / "demo.py"), "--cluster", "local", "--device",
                     "cpu", "--data-root", str(pack), *CLASSES, "--dry-run"]
        case.invalid = False  # images are not read here
    else:
        case.argv = ["stage", verb, str(pack), *([str(case.work / "scratch")] * (verb == "copy")), "--threads", "2"]
        same = {"json BOM", "json CRLF"} & set(case.kinds) or {"fingerprint", "source"} & set(case.names)  # notes
        case.invalid = verb == "verify" and changed and not same


def scratch(case: Case) -> None:
    """What is staged on a node: a cache, of which any part may be wrong."""
    scratch = case.copy(case.library.scratch, "scratch")
    found = sorted(path for path in scratch.rglob("*") if path.is_file())
    path = case.choose(found)
    if case.rng.random() < 0.2:
        files.mistreat(case, path, "a file on scratch")
    elif path.suffix == ".json" and case.rng.random() < 0.6:
        files.change_json(case, path)
    else:
        files.damage(case, path, "json" if path.suffix == ".json" else "binary", certain=False)
    case.names += ["scratch", path.parent.name]
    case.argv = case.choose([["stage", "status", str(scratch)], ["stage", "verify", str(scratch), "--threads", "2"],
                             ["stage", "copy", str(case.library.pack), str(scratch), "--threads", "2"],
                             ["stage", "gc", str(scratch)], ["stage", "status", str(scratch), "--json"]])


# ------------------------------------------------------------------------------------------------ runs, checkpoints

READERS = (["status", "RUN"], ["status", "RUN", "--json"], ["status", "--runs-dir", "runs"],
           ["evaluate", "RUN", "--dry-run"], ["evaluate", "RUN", "--json", "--dry-run", "--checkpoints", "all"],
           ["evaluate", "RUN", "--csv", "out.csv", "--checkpoints", "best"], ["compare", "RUN", "RUN"],
           ["compare", "RUN", "library"], ["diff", "RUN", "library", "--code"], ["diff", "RUN", "--json"],
           ["status", "RUN", "--goodput"], ["submit", "--like", "RUN", "--dry-run"],
           ["clean", "RUN", "--dry-run"], ["clean", "RUN", "--abandoned"],
           ["cancel", "RUN"], ["resume", "RUN", "--dry-run"], ["resume", "RUN"],
           ["evaluate", "RUN", "--vary", "nms_iou=0.4,0.5", "--dry-run"],
           ["logs", "RUN"], ["logs", "RUN", "--json"], ["logs", "RUN", "--evaluation", "last", "-n", "3"],
           ["logs", "RUN", "--rank", "0", "--attempt", "last"], ["logs", "RUN", "--job"])


def run(case: Case) -> None:
    run = case.copy(case.library.run, "runs/real")
    if case.rng.random() < 0.5:  # not complete, or not scored: other records are read then
        case.choose([lambda: [path.unlink() for path in (run / "attempts").glob("*.complete.json")],
                     lambda: [path.unlink() for path in run.glob("evaluations/*/metrics.json")],
                     lambda: shutil.rmtree(run / "evaluations")])()
    found = sorted(path for path in run.rglob("*") if path.is_file() and "/code/" not in str(path))
    weights = [10 if path.name == "run.json" else 4 if path.suffix in (".json", ".jsonl", ".py") else 1
               for path in found]
    for _ in range(case.choose([1, 1, 2])):
        path = case.rng.choices(found, weights)[0]
        if not path.is_file():
            continue
        files.anything(case, path)
    case.names += ["real", "run.json"]
    if case.rng.random() < 0.05:
        folder = case.choose([path for path in run.iterdir() if path.is_dir()])
        files.mistreat(case, folder, "a folder of a run")
    words = case.choose(READERS)
    target = str(run)
    case.argv = [target if word == "RUN" else str(case.library.run) if word == "library" else word for word in words]
    if "--runs-dir" in words:
        case.invalid = False  # a row of the table says what is wrong
    case.may_start = case.argv[0] in ("resume", "evaluate") and "--dry-run" not in case.argv


def checkpoint(case: Case) -> None:
    path = case.copy(case.library.checkpoint, "mine.pth")
    configs.corrupt_checkpoint(case, path)
    case.names += ["mine.pth"]
    case.argv = ["evaluate", str(path), "--config", str(case.library.folder / "demo.py"), "--cluster", "local",
                 "--device", "cpu", "--data-root", str(case.library.data), "--runs-dir", "runs"]
    case.may_start = not case.invalid


# by the names in the summary; how often, as weights
AREAS: dict[str, tuple[Callable[[Case], Any], int]] = {
    "flags": (typed.flags, 20), "positionals": (typed.positionals, 6), "job files": (typed.job_file, 14),
    "site files": (typed.site_file, 5), "sweep files": (typed.sweep_file, 5), "configs": (config, 12),
    "--set": (option, 8), "annotations": (annotations, 9), "data roots": (data_root, 2), "packs": (pack, 7),
    "scratches": (scratch, 3), "runs": (run, 20), "checkpoints": (checkpoint, 3), "weights": (places.weights, 3),
    "odd names": (places.odd_names, 6), "variables": (places.variables, 4), "code": (places.folders_of_code, 3),
    "other data": (places.other_data, 5), "former runs": (places.former_run, 8), "half packs": (places.half_a_pack, 4)}
