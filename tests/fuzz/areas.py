"""What a case is about: flags, job, site and sweep files, configs, annotations, packs, runs, checkpoints, data roots.

Each function gives a case its input and its command line. `illegal` is set only where every reader would agree.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from ecm_cluster import job as jobs
from ecm_cluster import test_settings

from . import configs, files
from .case import Case
from .values import NO_YAML, WORDS, YAML, places

CLASSES = ("--set", "model.roi_head.bbox_head.num_classes=6", "--set", "model.roi_head.mask_head.num_classes=6")


def base(case: Case, verb: str, cluster: str | None = None) -> list[str]:
    """A command line of a verb that is right."""
    data, runs = str(case.library.data), str(case.work / "runs")
    cluster = cluster or case.choose(["local", "local", "slurm"])
    if verb == "submit":
        return ["submit", "demo", "--cluster", cluster, "--data-root", data, "--runs-dir", runs, *CLASSES, "--dry-run"]
    if verb == "doctor":
        return ["doctor", "demo", "--cluster", "local", "--data-root", data, "--runs-dir", runs]
    if verb == "synthesize":
        return ["synthesize", str(case.work / "out"), "--train-images", "8", "--val-images", "2", "--classes", "2"]
    if verb == "stage":
        return case.choose([
            ["stage", "pack", data, str(case.work / "out.pack"), "--threads", "2"],
            ["stage", "verify", str(case.library.pack), "--threads", "2"],
            ["stage", "copy", str(case.library.pack), str(case.work / "scratch"), "--threads", "2"],
            ["stage", "status", str(case.library.scratch)]])
    case.copy(case.library.run, "runs/real")
    run = "real" if case.rng.random() < 0.3 else f"{runs}/real"
    runs_dir = ["--runs-dir", runs]
    return {"status": ["status", run, *runs_dir], "compare": ["compare", run, run, *runs_dir],
            "evaluate": ["evaluate", run, *runs_dir, "--dry-run"], "clean": ["clean", run, *runs_dir, "--dry-run"],
            "resume": ["resume", run, *runs_dir, "--dry-run"], "cancel": ["cancel", run, *runs_dir]}[verb]


# ------------------------------------------------------------------------------------------------------ flags


def flags(case: Case) -> None:
    """One or two flags of a verb with words that they may not expect."""
    verb = case.choose(["submit"] * 4 + ["evaluate"] * 3 + ["resume"] * 2
                       + ["status", "compare", "clean", "stage", "stage", "doctor", "synthesize"])
    case.argv = base(case, verb)
    for _ in range(case.choose([1, 1, 2])):
        actions = [a for a in parser_of(case.argv)._actions if a.option_strings and a.dest not in ("help", "wait")]
        action = case.choose(actions)
        if action.nargs == 0:
            case.argv.append(case.choose(action.option_strings))
            case.changed("a switch", names=[action.dest])
            continue
        word, flag = case.choose(WORDS), action.option_strings[0]
        again = flag in " ".join(case.argv).replace("=", " ").split(" ")
        case.argv += case.choose([[flag, word], [f"{flag}={word}"]])
        if word.startswith("-") and case.argv[-2] == flag:
            case.names += ["argument", "arguments"]
        case.changed(f"a flag's word: {action.dest}", names=[action.dest, flag.strip("-"), *words_in(word)],
                     illegal=certainly_wrong(action, word) and not again)
    if case.rng.random() < 0.1:
        case.argv.append(case.choose(["--no-such-flag", "--dry", "-x", "surplus", "\udcff", "--set"]))
        case.changed("a surplus word", names=[case.argv[-1], "argument"])
    if verb == "synthesize" and any("9" * 9 in word for word in case.argv):
        case.argv[1] = str(case.library.data)  # refused or not, nothing huge is drawn


def words_in(word: str) -> list[str]:
    return [word] if 0 < len(word) < 40 and word.isprintable() else []


def parser_of(argv: list[str]) -> argparse.ArgumentParser:
    made = importlib.import_module(f"ecm_cluster.{argv[0]}").parser()
    for action in made._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices[argv[1]]
    return made


def certainly_wrong(action: argparse.Action, word: str) -> bool:
    """Whether no reading of a word makes a value for the flag."""
    if action.choices is not None:
        return word not in action.choices
    kinds = {f.name: f.metadata["kind"] for f in fields(jobs.Job)}
    kind = kinds.get(action.dest) if action.type is None else {int: "int", float: "number"}.get(action.type, "")
    if kind in ("int", "positive", "number"):
        try:
            return not 0 <= (float(word) if kind == "number" else int(word)) < 2**1000
        except (ValueError, OverflowError):
            return True
    if kind in ("time", "memory"):
        return not any(c.isdecimal() for c in word) and word != "none"
    return kind == "str" and not word.strip() and action.dest != "options"


def positionals(case: Case) -> None:
    """Words in the place of a run, a job, a pack, a folder."""
    word = case.choose(WORDS + ("runs", str(case.library.data), str(case.library.run / "run.json"), "demo", "real@x"))
    runs = ["--runs-dir", str(case.library.run.parent)]
    case.argv = case.choose([
        ["submit", word, "--dry-run"], ["status", word, *runs], ["evaluate", word, *runs, "--dry-run"],
        ["compare", "real", word, *runs], ["clean", word, *runs, "--dry-run"], ["cancel", word, *runs],
        ["resume", word, *runs, "--dry-run"], ["stage", "verify", word], ["stage", "copy", word, "scratch"],
        ["stage", "status", word], ["stage", "pack", word, "out.pack"], ["stage", word], ["stage", "gc", word],
        ["evaluate", word, "--config", "configs/demo.py"], ["status", "--runs-dir", word], ["doctor", word]])
    case.changed(f"a word for {' '.join(case.argv[:2]) if case.argv[0] == 'stage' else case.argv[0]}",
                 names=[*words_in(word), "RUN", "JOB", "argument", "runs-dir", "PACK", "SCRATCH", "DATA_ROOT", "name"])


# ------------------------------------------------------------------------------------ job, site and sweep files


def job_file(case: Case) -> None:
    path = _yaml_of_a_job(case, "mine.yaml")
    verb = case.choose(["submit"] * 9 + ["doctor"])
    case.argv = [verb, str(path), *_local(case), *(["--dry-run"] if verb == "submit" else [])]
    if case.illegal and verb == "submit" and case.rng.random() < 0.3:
        case.argv.remove("--dry-run")


def site_file(case: Case) -> None:
    path = _yaml_of_a_job(case, "home/cluster.yaml")
    case.env["ECM_CLUSTER_SITE"] = str(path)
    verb = case.choose(["submit"] * 4 + ["status", "evaluate", "compare", "stage"])
    if verb == "submit":
        case.argv = ["submit", *_local(case), "--dry-run"]
    else:  # these read the site's runs_dir or scratch alone
        case.argv = {"status": ["status"], "evaluate": ["evaluate", "x", "--dry-run"], "compare": ["compare", "x", "y"],
                     "stage": ["stage", "status"]}[verb]
        case.illegal = False
        case.names += ["no run", "x", "scratch"]


def _local(case: Case) -> list[str]:
    return ["--cluster", case.choose(["local", "slurm"])]


def _yaml_of_a_job(case: Case, name: str) -> Path:
    lines = {"config": str(case.library.folder / "demo.py"), "device": "cpu", "nodes": "1", "gpus": "1",
             "cpus_per_gpu": "1", "mem_per_gpu": "3G", "time": "1:00:00", "data_root": str(case.library.data),
             "runs_dir": str(case.work / "runs"), "slurm": "{mail-type: END}", "env": "{NCCL_DEBUG: WARN}",
             "setup": "[module load cuda]", "evaluation": "{enabled: true, at_once: 4, time: 10}",
             "options": "{optimizer.lr: 0.02}"}
    for _ in range(case.choose([1, 1, 1, 2])):
        if case.rng.random() < 0.75:
            _change_field(case, lines)
    path = case.write(name, "# a job\n" + "".join(f"{key}: {value}\n" for key, value in lines.items()))
    if not case.kinds or case.rng.random() < 0.15:
        if case.rng.random() < 0.3:
            files.mistreat(case, path, "the YAML file")
            case.illegal |= case.kinds[-1] not in ("the YAML file is missing", "the YAML file is /dev/null")
        else:
            files.damage(case, path, "yaml")
    case.names.append(path.name)
    return path


BLOCKS = ("evaluation", "options", "env", "slurm", "srun")
INNER = {"evaluation": [f.name for f in fields(jobs.Evaluation)],
         "options": ["optimizer.lr", "data.samples_per_gpu", "runner.max_epochs", "model", "x..y", "data"],
         "env": ["A", "1A", "A B", "''", "A=B", "OMP_NUM_THREADS", "PATH"],
         "slurm": ["wrap", "comment", "mem", "output", "array", "mail-type", "x", "''", "gres", "nodes", "--wrap"],
         "srun": ["container-image", "pty", "x", "''", "ntasks", "mpi"]}


def _change_field(case: Case, lines: dict[str, str]) -> None:
    rng = case.rng
    names = {f.name: f.metadata["kind"] for f in fields(jobs.Job)}
    key = rng.choice(list(names))
    broken = rng.random() < 0.35
    value = rng.choice(NO_YAML if broken else YAML)
    if key in BLOCKS and rng.random() < 0.7:
        inner = rng.choice(INNER[key])
        if broken or "\n" in value:
            value = rng.choice(["null", "[1]", '"a\\nb"', "{a: 1}"])
        wrong = (key, inner) in (("slurm", "wrap"), ("slurm", "--wrap")) and value != "null"
        wrong |= key == "slurm" and value == '"a\\nb"'
        lines[key] = f"{{{inner}: {value}}}"
        case.changed(f"{key}: an inner value", illegal=wrong, names=[key, inner.strip("'-")])
        return
    lines[key] = value
    certain = broken and not value.startswith(("&a &b", "<<", "{<<", "{?", "!!int 0x", "!!int 1_", "!!int 0b",
                                               "!!float 1_", "!unknown"))
    case.changed("no YAML" if certain else f"a value for {names[key]}", names=[key, "line"],
                 illegal=certain or _wrong_for(names[key], value))


def _wrong_for(kind: str, raw: str) -> bool:
    """Whether a YAML value is none of the kind; only where that is beyond doubt."""
    plain = ("int", "positive", "number", "bool", "choice", "memory")
    collections = ("[1, 2]", "{a: 1}", "[[1]]", "[null]", "{1: 2}", "2020-01-01")
    return (kind in (*plain, "time", "str") and raw in collections) \
        or (kind in plain and raw in ("abc", '"a\\nb"', ".nan", "''")) \
        or (kind in ("int", "positive") and raw in ("-1", "1.5", ".inf", "true", '"5"'))


def sweep_file(case: Case) -> None:
    setting = case.choose(test_settings.SETTINGS)
    broken = case.rng.random() < 0.3
    value = case.choose(NO_YAML if broken else (*YAML, "[0.1, 0.2]", "[abc]", "[[1]]", "[0.5, null]", "[1333x800]"))
    case.changed("no YAML in a sweep" if broken else "a value of a sweep", names=[setting, "sweep.yaml", "line"],
                 illegal=value in ("abc", "{a: 1}", "[abc]", "{}", "2020-01-01", "null", "[]", "''", "[null]"))
    lines = {"score_thr": "[0.0001, 0.01]", "nms_iou": "[0.5, 0.6]", setting: value}
    if case.rng.random() < 0.1:
        lines[case.choose(["no_such", "1", "null", "[a]", "''"])] = "[1]"
        case.changed("no setting", illegal=True, names=["no_such", "setting", "key", "line"])
    path = case.write("sweep.yaml", "".join(f"{key}: {value}\n" for key, value in lines.items()))
    if case.rng.random() < 0.3:
        case.choose([lambda: files.mistreat(case, path, "a sweep"), lambda: files.damage(case, path, "yaml")])()
    case.copy(case.library.run, "runs/real")
    case.argv = ["evaluate", "runs/real", "--sweep", str(path), "--dry-run"]


# ----------------------------------------------------------------------------------------------------- configs


def config(case: Case) -> None:
    path = case.work / "mine.py"
    case.argv = ["submit", "--config", str(path), *_local(case), "--device", "cpu", "--dry-run",
                 "--data-root", str(case.library.data)]
    configs.write(case, path)
    if case.rng.random() < 0.1:
        case.argv[0:] = ["evaluate", str(case.library.checkpoint), "--config", str(path), "--dry-run"]
        case.illegal = False  # refused by --dry-run in any case
        case.names.append("dry-run")


def option(case: Case) -> None:
    """--set"""
    case.argv = ["submit", "--config", str(case.library.folder / "demo.py"), *_local(case), "--device", "cpu",
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
        elif path.is_file() and not case.illegal:
            tops = case.rng.random() < 0.2
            files.change_json(case, path, only=("images", "annotations", "categories") if tops else ())
            case.illegal |= tops and case.kinds[-1] == "json value dropped"
    if case.rng.random() < 0.1:
        files.mistreat(case, path, "annotations")
        case.illegal = True
    _use_data(case, root)


def _use_data(case: Case, root: Path) -> None:
    case.names += ["annotations", "data.train", "data.val", "data.test"]
    if case.rng.random() < 0.7:
        case.argv = ["submit", "--config", str(case.library.folder / "demo.py"), "--cluster", "local", "--device",
                     "cpu", "--data-root", str(root), *CLASSES, "--dry-run"]
    else:
        case.argv = ["stage", "pack", str(root), str(case.work / "out.pack"), "--threads", "2",
                     *case.choose([[], ["--strict"]])]
        case.illegal = False  # a pack may hold what no training reads


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
    """A zip file in the place of the folder of images or beside the annotations."""
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
        case.illegal = False  # images are not read here
    else:
        case.argv = ["stage", verb, str(pack), *([str(case.work / "scratch")] * (verb == "copy")), "--threads", "2"]
        whole = {"json doubled", "binary doubled", "json BOM", "json CRLF", "json value dropped"}
        case.illegal = verb == "verify" and changed and not whole & set(case.kinds)


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
    case.names += ["scratch"]
    case.argv = case.choose([["stage", "status", str(scratch)], ["stage", "verify", str(scratch), "--threads", "2"],
                             ["stage", "copy", str(case.library.pack), str(scratch), "--threads", "2"],
                             ["stage", "gc", str(scratch)], ["stage", "status", str(scratch), "--json"]])


# ------------------------------------------------------------------------------------------------ runs, checkpoints

READERS = (["status", "RUN"], ["status", "RUN", "--json"], ["status", "--runs-dir", "runs"],
           ["evaluate", "RUN", "--dry-run"], ["evaluate", "RUN", "--json", "--dry-run", "--checkpoints", "all"],
           ["evaluate", "RUN", "--csv", "out.csv", "--checkpoints", "best"], ["compare", "RUN", "RUN"],
           ["compare", "RUN", "library"], ["clean", "RUN", "--dry-run"], ["clean", "RUN", "--abandoned"],
           ["cancel", "RUN"], ["resume", "RUN", "--dry-run"], ["resume", "RUN"],
           ["evaluate", "RUN", "--vary", "nms_iou=0.4,0.5", "--dry-run"])


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
        form = {".json": "json", ".jsonl": "text", ".py": "py", ".pth": "binary", ".npz": "binary",
                ".pkl": "binary"}.get(path.suffix, "text")
        spoiled = path.read_text(errors="replace")
        roll = case.rng.random()
        if roll < 0.15:
            files.mistreat(case, path, "a file of a run")
        elif form == "json" and roll < 0.8 and _parses(spoiled) or path.suffix == ".jsonl" and roll < 0.6 \
                and _parses(spoiled.split("\n")[0]):
            files.change_json(case, path)
        else:
            files.damage(case, path, form, certain=path.name == "run.json")
    case.names += ["real", "run.json"]
    if case.rng.random() < 0.05:
        folder = case.choose([path for path in run.iterdir() if path.is_dir()])
        files.mistreat(case, folder, "a folder of a run")
    words = case.choose(READERS)
    target = str(run)
    case.argv = [target if word == "RUN" else str(case.library.run) if word == "library" else word for word in words]
    if "--runs-dir" in words:
        case.illegal = False  # a row of the table says what is wrong
    case.may_start = case.argv[0] in ("resume", "evaluate") and "--dry-run" not in case.argv


def _parses(text: str) -> bool:
    try:
        return bool(places(json.loads(text)))
    except (ValueError, RecursionError):
        return False


def checkpoint(case: Case) -> None:
    path = case.copy(case.library.checkpoint, "mine.pth")
    configs.spoil_checkpoint(case, path)
    case.names += ["mine.pth"]
    case.argv = ["evaluate", str(path), "--config", str(case.library.folder / "demo.py"), "--cluster", "local",
                 "--device", "cpu", "--data-root", str(case.library.data), "--runs-dir", "runs"]
    case.may_start = not case.illegal


AREAS: dict[str, tuple[Callable[[Case], Any], int]] = {
    "flags": (flags, 20), "positionals": (positionals, 6), "job files": (job_file, 14), "site files": (site_file, 5),
    "sweep files": (sweep_file, 5), "configs": (config, 12), "--set": (option, 8), "annotations": (annotations, 9),
    "data roots": (data_root, 2), "packs": (pack, 7), "scratches": (scratch, 3), "runs": (run, 20),
    "checkpoints": (checkpoint, 3)}
