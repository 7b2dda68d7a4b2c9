"""Inputs beside the usual ones: odd names of files, variables, other data sets, folders of code, half-made packs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import former_version

from . import configs, files
from .case import Case
from .values import WORDS

CLASSES = ("--set", "model.roi_head.bbox_head.num_classes=6", "--set", "model.roi_head.mask_head.num_classes=6")
ODD = ("a b", "a\nb", "\x1b[2J", "caf\udce9", "%j", "-x", "--help", "'", '"', "$(id)", "\\", "\u202e", "\x85",
       "\u00e9", "x" * 250, "a=b", "[x]", "#x", "*", "a:b", "\x7f", "{}", "a@1", "\u2028", "\t")
VARIABLES = ("ECM_CLUSTER_SITE", "ECM_CLUSTER_ANNOTATIONS", "ECM_CLUSTER_WEIGHTS", "ECM_CLUSTER_CHECK", "TMPDIR",
             "HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "SLURM_TMPDIR", "SBATCH_PARTITION", "SBATCH_ACCOUNT",
             "SBATCH_TIMELIMIT", "SLURM_CLUSTERS", "COLUMNS", "LC_ALL", "CUDA_VISIBLE_DEVICES", "TERM", "NO_COLOR")


def demo(case: Case, *words: object) -> list[str]:
    return ["submit", "--config", str(case.library.folder / "demo.py"), "--cluster", "local", "--device", "cpu",
            *map(str, words), "--dry-run"]


def odd_names(case: Case) -> None:
    """Right input under a name that a shell, a terminal or Slurm may not take."""
    name, library = case.choose(ODD), case.library
    kind = case.choose(["run", "run", "data", "pack", "job", "config", "sweep", "checkpoint", "code", "scratch"])
    if kind == "run":
        case.copy(library.run, f"runs/{name}")
        case.argv = case.choose([["status", f"runs/{name}"], ["status"], ["evaluate", f"runs/{name}", "--dry-run"],
                                 ["clean", f"runs/{name}"], ["cancel", f"runs/{name}"], ["resume", f"runs/{name}"],
                                 ["compare", f"runs/{name}", str(library.run)], ["status", "--json"]])
    elif kind in ("data", "pack"):
        root = case.copy(library.data if kind == "data" else library.pack, f"{name}.{kind}")
        case.argv = case.choose([demo(case, "--data-root", root, *CLASSES), ["stage", "verify", str(root)],
                                 ["stage", "pack", str(root), "out.pack"], ["stage", "copy", str(root), "scratch"]])
    elif kind in ("job", "config", "sweep"):
        suffix = ".py" if kind == "config" else ".yaml"
        text = {"job": f"config: {library.folder}/demo.py\ndata_root: {library.data}\n", "sweep": "nms_iou: [0.5]\n",
                "config": (library.folder / "demo.py").read_text()}[kind]
        path = case.write(f"files/{name}{suffix}", text)
        case.argv = {"job": ["submit", str(path), "--dry-run"],
                     "config": ["submit", "--config", str(path), "--dry-run"],
                     "sweep": ["evaluate", str(library.run), "--sweep", str(path), "--dry-run"]}[kind]
    elif kind == "checkpoint":
        path = case.copy(library.checkpoint, f"{name}.pth")
        case.argv = demo(case, "--data-root", library.data, *CLASSES, "--set", f"load_from={path}")
    elif kind == "code":
        path = case.write(f"files/{name}.py", "x = 1\n")
        case.argv = demo(case, "--data-root", library.data, *CLASSES, "--code", path.parent)
    else:
        scratch = case.copy(library.scratch, name)
        case.argv = ["stage", case.choose(["status", "gc", "verify"]), str(scratch)]
    case.argv = [f"./{word}" if word == name and word.startswith("-") else word for word in case.argv]
    # what refuses such a name says the path, printable; or what it was looking for
    case.changed(f"{kind} of an odd name", names=["/", "%", "name", "config", "RUN", "data", "path"])


def variables(case: Case) -> None:
    name, word = case.choose(VARIABLES), case.choose([w for w in WORDS if "\0" not in w])
    case.env[name] = word
    data = case.library.data
    case.argv = case.choose([demo(case, "--data-root", data, *CLASSES), ["status"],
                             ["submit", "demo", "--cluster", "slurm", "--data-root", str(data), "--dry-run"],
                             ["stage", "status"], ["evaluate", str(case.library.run), "--dry-run"],
                             ["stage", "copy", str(case.library.pack)]])
    case.changed(f"variable {name}", names=[name, "scratch", "cluster", "site", "SCRATCH", *files.short(word)])


def folders_of_code(case: Case) -> None:
    """--code: a user's modules, of which one is not right."""
    case.write("code/mine.py", "x = 1\n")
    case.write("code/other/__init__.py", "")
    path = case.write("code/other/part.py", "def f():\n    return 1\n")
    roll = case.rng.random()
    if roll < 0.5:
        files.mistreat(case, path, "a module")
    elif roll < 0.8:
        files.damage(case, path, "text")
    else:
        odd = case.choose(["loop", "socket", "deep", "many"])
        if odd == "loop":
            (case.work / "code" / "loop").symlink_to(case.work / "code")
        elif odd == "deep":
            (case.work / "code" / "/".join(["d"] * 400)).mkdir(parents=True)
        elif odd == "many":
            for number in range(300):
                case.write(f"code/m{number}.py", "")
        else:
            os.mkfifo(case.work / "code" / "pipe.py")
        case.changed(f"code: {odd}")
    case.names += ["code"]
    imports = case.choose([[], ["--set", "custom_imports.imports=['mine']"], ["--set", "custom_imports.imports=mine"],
                           ["--set", "custom_imports.imports=['other.part']"]])
    case.argv = demo(case, "--data-root", case.library.data, *CLASSES, "--code", case.choose(["code", "code/mine.py",
                                                                                            "/nothing", "code/.."]),
                     *imports)
    if "/nothing" in case.argv:
        case.changed("code: none there", invalid=True)


def other_data(case: Case) -> None:
    """COCO's annotations, and Pascal VOC's XML."""
    text = (case.library.folder / "demo.py").read_text()
    if case.rng.random() < 0.5:
        root = case.copy(case.library.data, "data")
        path = root / "annotations" / "lvis_v1_train.json"
        table = json.loads(path.read_text())
        for image in table["images"]:
            image["file_name"] = image.pop("coco_url").rpartition("/")[2]
        names = [category["name"] for category in table["categories"]]
        case.replace(path, json.dumps(table).encode())
        text = text.replace("'LVISFromFile'", f"'CocoDataset', classes={names!r}") \
            .replace("img_prefix=data_root", "img_prefix=data_root + 'train2017/'").replace("_val.json", "_train.json")
        case.choose([lambda: files.change_json(case, path), lambda: files.change_json(case, path),
                     lambda: files.damage(case, path, "json")])()
    else:
        root = case.work / "VOC2007"
        for number in range(3):
            xml = case.write(f"VOC2007/Annotations/{number}.xml",
                             "<annotation><size><width>8</width><height>8</height></size><object><name>cat</name><bndbox>"
                             "<xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></object></annotation>")
            case.write(f"VOC2007/JPEGImages/{number}.jpg", b"an image")
        path = case.write("VOC2007/list.txt", "0\n1\n2\n")
        text = text.replace("'LVISFromFile'", "'VOCDataset', classes=['cat']") \
            .replace("metric=['bbox', 'segm']", "metric='mAP'")
        for split in ("train", "val"):
            text = text.replace(f"annotations/lvis_v1_{split}.json'", "list.txt'")
        kind = case.choose(["list", "XML", "bomb", "deep", "file"])
        if kind == "file":
            files.mistreat(case, case.choose([path, xml]), "VOC")
        elif kind in ("list", "XML"):
            files.damage(case, path if kind == "list" else xml, "text")
        else:
            entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
            case.replace(xml, f'<!DOCTYPE x [<!ENTITY a0 "x">{entities}]><x>&a9;</x>'.encode() if kind == "bomb"
                         else b"<a>" * 100_000)
            case.changed(f"XML: {kind}", invalid=kind == "deep")
        case.names += ["xml", "list.txt"]
    config = case.write("mine.py", text)
    case.names += ["annotations", "data.train", "data.val", "data.test", "config"]
    case.argv = ["submit", "--config", str(config), "--cluster", "local", "--device", "cpu", "--data-root", str(root),
                 *CLASSES, "--dry-run"]


def former_run(case: Case) -> None:
    """A run of the previous version, cancelled and resumed, of which one to two files are not right."""
    run = case.choose([former_version.complete, former_version.cancelled])(case.work).path
    found = sorted(path for path in run.rglob("*") if path.is_file())
    for _ in range(case.choose([1, 1, 2])):
        path = case.choose(found)
        if path.is_file():
            files.anything(case, path)
    case.argv = case.choose([["status", str(run)], ["status", "--json"], ["resume", str(run), "--dry-run"],
                             ["evaluate", str(run), "--dry-run", "--checkpoints", "all"], ["clean", str(run)],
                             ["cancel", str(run)], ["compare", str(run), str(run)], ["status", str(run), "--json"]])
    case.invalid = False
    case.names += ["former", "run.json"]


def half_a_pack(case: Case) -> None:
    """What a call of `stage pack` or `synthesize` that was killed has left, or another process has made."""
    if case.rng.random() < 0.4:
        root = case.copy(case.library.data, "out")
        path = root / case.choose(["synthetic.json", "synthetic.json", "annotations/lvis_v1_val.json"])
        files.anything(case, path)
        case.argv = ["synthesize", str(root), "--train-images", "24", "--val-images", "8", "--classes", "6", "--seed",
                     case.choose(["1", "2"]), *case.choose([[], ["--force"]])]
        case.names += ["out"]
        return
    partial = case.copy(case.library.half_pack, "out.pack.partial")
    found = sorted(path for path in partial.rglob("*") if path.is_file())
    path = case.rng.choices(found, [5 if ".packing" in str(path) else 1 for path in found])[0]
    files.anything(case, path)
    if case.rng.random() < 0.2:
        shutil.rmtree(partial)
        case.choose([lambda: partial.mkdir(), lambda: os.mkfifo(partial), lambda: partial.touch(),
                     lambda: partial.symlink_to("/dev/null"), lambda: partial.symlink_to(case.work)])()
        case.changed("a .partial of another kind")
    case.argv = ["stage", "pack", str(case.library.data), str(case.work / "out.pack"), "--threads", "2",
                 "--shard-size", "100K"]
    case.names += ["out.pack"]


def weights(case: Case) -> None:
    """A checkpoint that a config names."""
    path: Path = case.copy(case.library.checkpoint, "mine.pth")
    configs.corrupt_checkpoint(case, path)
    case.names += ["mine.pth", "load_from", "pretrained"]
    option = case.choose([f"load_from={path}", f"model.pretrained={path}"])
    case.argv = demo(case, "--data-root", case.library.data, *CLASSES, "--set", option)
