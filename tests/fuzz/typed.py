"""What a user types: flags, words, and the YAML of job, site and sweep files."""

from __future__ import annotations

import argparse
import importlib
from dataclasses import fields
from pathlib import Path

from ecm_cluster.job import eval_settings, option
from ecm_cluster.job import job as jobs
from ecm_cluster.job.evaluation_options import EvaluationOptions

from . import files
from .case import Case
from .places import CLASSES
from .values import NO_YAML, WORDS, YAML


def base(case: Case, verb: str) -> list[str]:
    """A command line of a verb that is right."""
    data, runs = str(case.library.data), str(case.work / "runs")
    if verb == "submit":
        return ["submit", "demo", *cluster(case), "--data-root", data, "--runs-dir", runs, *CLASSES, "--dry-run"]
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
            "diff": ["diff", run, run, *runs_dir],
            "evaluate": ["evaluate", run, *runs_dir, "--dry-run"], "clean": ["clean", run, *runs_dir, "--dry-run"],
            "resume": ["resume", run, *runs_dir, "--dry-run"], "cancel": ["cancel", run, *runs_dir]}[verb]


# ------------------------------------------------------------------------------------------------------ flags


def flags(case: Case) -> None:
    """One or two flags of a verb with words that they may not expect."""
    verb = case.choose(["submit"] * 4 + ["evaluate"] * 3 + ["resume"] * 2
                       + ["status", "compare", "diff", "clean", "stage", "stage", "doctor", "synthesize"])
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
        if case.argv[-2] == flag and (word.startswith("-") or flag == "--check"):
            case.names.append("argument")
        case.changed(f"a flag's word: {action.dest}",
                     names=[action.dest, flag.strip("-"), action.metavar or flag, "option", *files.short(word)],
                     invalid=certainly_wrong(action, word) and not again)
    if case.rng.random() < 0.1:
        case.argv.append(case.choose(["--no-such-flag", "--dry", "-x", "surplus", "\udcff", "--set"]))
        case.changed("a surplus word", names=[case.argv[-1], "argument"])
    if "--runs-dir" in case.argv[1:] or any(word.startswith("--runs-dir=") for word in case.argv):
        case.names.append("RUN")  # there is none of this name in such a place
    if verb == "synthesize" and any("9" * 9 in word for word in case.argv):
        case.argv[1] = str(case.library.data)  # refused or not, nothing huge is drawn


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
    kind = kind_of(jobs.OPTIONS.get(action.dest)) if action.type in (None, str) else {int: "int", float: "number"}.get(
        action.type, "")
    if kind in ("int", "number"):
        try:
            return not 0 <= (float(word) if kind == "number" else int(word)) < 2**1000
        except (ValueError, OverflowError):
            return True
    if kind in ("time", "memory"):
        return not any(c.isdecimal() for c in word) and word != "none"
    return kind == "str" and not word.strip() and action.dest != "options"


def kind_of(one: option.Option | None) -> str:
    """What an option's values are, in one word; empty where much is a value."""
    if one is None:
        return ""
    named = {"bool": option.BOOL, "time": option.TIME, "memory": option.MEMORY, "str": option.TEXT}
    word = {int: "int", float: "number"}.get(one.reader.word, "choice" if one.reader.choices else "")
    return word or next((name for name, reader in named.items() if one.reader is reader), "")


def positionals(case: Case) -> None:
    """Words instead of a run, a job, a pack, a folder."""
    word = case.choose(WORDS + ("runs", str(case.library.data), str(case.library.run / "run.json"), "demo", "real@x"))
    runs = ["--runs-dir", str(case.library.run.parent)]
    case.argv = case.choose([
        ["submit", word, "--dry-run"], ["status", word, *runs], ["evaluate", word, *runs, "--dry-run"],
        ["compare", "real", word, *runs], ["clean", word, *runs, "--dry-run"], ["cancel", word, *runs],
        ["resume", word, *runs, "--dry-run"], ["stage", "verify", word], ["stage", "copy", word, "scratch"],
        ["stage", "status", word], ["stage", "pack", word, "out.pack"], ["stage", word], ["stage", "gc", word],
        ["evaluate", word, "--config", "configs/demo.py"], ["status", "--runs-dir", word], ["doctor", word]])
    case.changed(f"a word for {' '.join(case.argv[:2]) if case.argv[0] == 'stage' else case.argv[0]}",
                 names=[*files.short(word), "RUN", "JOB", "argument", "runs-dir", "PACK", "SCRATCH", "DATA_ROOT",
                        "name"])


# ------------------------------------------------------------------------------------ job, site and sweep files


def job_file(case: Case) -> None:
    path = _yaml_of_a_job(case, "mine.yaml")
    verb = case.choose(["submit"] * 9 + ["doctor"])
    case.argv = [verb, str(path), *cluster(case), *(["--dry-run"] if verb == "submit" else [])]
    if case.invalid and verb == "submit" and case.rng.random() < 0.3:
        case.argv.remove("--dry-run")


def site_file(case: Case) -> None:
    path = _yaml_of_a_job(case, "home/cluster.yaml")
    case.env["ECM_CLUSTER_SITE"] = str(path)
    verb = case.choose(["submit"] * 4 + ["status", "evaluate", "compare", "stage"])
    if verb == "submit":
        case.argv = ["submit", *cluster(case), "--dry-run"]
    else:  # these read the site's runs_dir or scratch alone
        case.argv = {"status": ["status"], "evaluate": ["evaluate", "x", "--dry-run"], "compare": ["compare", "x", "y"],
                     "stage": ["stage", "status"]}[verb]
        case.invalid = False
        case.names += ["no run", "x", "scratch"]


def cluster(case: Case) -> list[str]:
    """Where a job is to run."""
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
            case.invalid |= case.kinds[-1] not in ("the YAML file is missing", "the YAML file is /dev/null")
        else:
            files.damage(case, path, "yaml")
    case.names += [path.name, *lines]
    return path


BLOCKS = ("evaluation", "options", "env", "slurm", "srun")
INNER = {"evaluation": [f.name for f in fields(EvaluationOptions)],
         "options": ["optimizer.lr", "data.samples_per_gpu", "runner.max_epochs", "model", "x..y", "data"],
         "env": ["A", "1A", "A B", "''", "A=B", "OMP_NUM_THREADS", "PATH"],
         "slurm": ["wrap", "comment", "mem", "output", "array", "mail-type", "x", "''", "gres", "nodes", "--wrap"],
         "srun": ["container-image", "pty", "x", "''", "ntasks", "mpi"]}


def _change_field(case: Case, lines: dict[str, str]) -> None:
    rng = case.rng
    names = {f.name: kind_of(jobs.OPTIONS.get(f.name)) for f in fields(jobs.Job)}
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
        case.changed(f"{key}: an inner value", invalid=wrong, names=[key, inner.strip("'-")])
        return
    lines[key] = value
    certain = broken and not value.startswith(("&a &b", "<<", "{<<", "{?", "!!int 0x", "!!int 1_", "!!int 0b",
                                               "!!float 1_", "!unknown"))
    case.changed("no YAML" if certain else f"a value for {names[key] or key}", names=[key, "line"],
                 invalid=certain or _wrong_for(names[key], value))


def _wrong_for(kind: str, raw: str) -> bool:
    """Whether a YAML value is none of the kind; only where that is beyond doubt."""
    plain = ("int", "number", "bool", "choice", "memory")
    collections = ("[1, 2]", "{a: 1}", "[[1]]", "[null]", "{1: 2}")
    return (kind in (*plain, "time", "str") and raw in collections) \
        or (kind in plain and raw in ("abc", '"a\\nb"', ".nan", "''", "2020-01-01")) \
        or (kind in ("int",) and raw in ("-1", "1.5", ".inf", "true", '"5"'))


def sweep_file(case: Case) -> None:
    setting = case.choose(eval_settings.SETTINGS)
    broken = case.rng.random() < 0.3
    value = case.choose(NO_YAML if broken else (*YAML, "[0.1, 0.2]", "[abc]", "[[1]]", "[0.5, null]", "[1333x800]"))
    case.changed("no YAML in a sweep" if broken else "a value of a sweep", names=[setting, "sweep.yaml", "line"],
                 invalid=value in ("abc", "{a: 1}", "[abc]", "{}", "2020-01-01", "null", "[]", "''", "[null]"))
    lines = {"score_thr": "[0.0001, 0.01]", "nms_iou": "[0.5, 0.6]", setting: value}
    if case.rng.random() < 0.1:
        lines[case.choose(["no_such", "1", "null", "[a]", "''"])] = "[1]"
        case.changed("no setting", invalid=True, names=["no_such", "setting", "key", "line"])
    path = case.write("sweep.yaml", "".join(f"{key}: {value}\n" for key, value in lines.items()))
    if case.rng.random() < 0.3:
        case.choose([lambda: files.mistreat(case, path, "a sweep"), lambda: files.damage(case, path, "yaml")])()
    case.copy(case.library.run, "runs/real")
    case.argv = ["evaluate", "runs/real", "--sweep", str(path), "--dry-run"]
