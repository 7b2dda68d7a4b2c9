"""Job: what to run where. A job file (YAML), the user's site file and flags, merged, validated, frozen.

Each option is declared once, as a field of :class:`Job` with its help; the command line, the list of legal keys
and the checks all come from there. Flags beat the job file, which beats the site file.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..base.errors import UserError, one_of, shown
from ..base.units import NO_MEMORY, SET, check_value, parse_memory, parse_time
from ..base.yaml_file import read_yaml
from ..mmconfig import shipped
from ..mmconfig.options import laid_over
from . import sbatch_options, sharing

SITE_ENV = "ECM_CLUSTER_SITE"
BLOCKS = {"slurm": sbatch_options.check, "srun": sbatch_options.check_srun}
# what each node copies to its scratch
BOTH, ANNOTATIONS, NOTHING = STAGED = ("images+annotations", "annotations", "none")
DEFAULT_CONFIG = "configs/ecm/mask_rcnn_r50_1x.py"


def _option(default: Any, kind: str, help: str, flag: str | None = None, choices: tuple[str, ...] = (),
            secret: bool = False) -> Any:
    meta = {"kind": kind, "help": help, "flag": flag, "choices": choices}
    if isinstance(default, (dict, list)):
        return field(default_factory=type(default), metadata=meta, repr=not secret)
    return field(default=default, metadata=meta)


@dataclass(frozen=True)
class Evaluation:
    """How the checkpoints of a run are scored: the ``evaluation:`` block of a job file.

    What is not given (resources) is taken from the training's own.
    """

    enabled: bool = _option(True, "bool", "submit an evaluation behind the training")
    nodes: int = _option(0, "int", "nodes of the evaluation job; 0: one node")
    gpus: int = _option(0, "int", "GPUs per node of the evaluation job; 0: as the training")
    partition: str | None = _option(None, "str", "partition of the evaluation job; default: as the training")
    time: str | None = _option(None, "time", "time limit of the evaluation job; default: as the training")
    epochs: Any = _option(None, "epochs", "besides the last checkpoint: all, or a list of epochs")
    every: int = _option(0, "int", "besides the last checkpoint: every n-th epoch, or iteration where the config "
                         "counts those (IterBasedRunner); 0: none")
    settings: dict[str, Any] = _option({}, "map", "test settings to try, e.g. {nms_iou: [0.5, 0.6]}: every combination")
    at_once: int = _option(4, "positive", "evaluations of a run that may be at work at once")
    while_training: bool = _option(False, "bool", "score checkpoints as they are committed, not after the training")


@dataclass(frozen=True)
class Job:
    """One training run: what to learn (config) and where. Raises :class:`UserError` when a value is not legal."""

    config: str = _option(DEFAULT_CONFIG, "path", "mmdet config: a path, one of configs/, or mmdet::PATH", "--config")
    name: str | None = _option(None, "str", "name of the run; default: the config's name and a number", "--name")
    nodes: int = _option(1, "positive", "number of nodes", "--nodes")
    gpus: int = _option(1, "positive", "GPUs per node; one task (rank) runs on each", "--gpus")
    device: str = _option("cuda", "choice", "cuda, or cpu: then each 'GPU' is a CPU rank", "--device", ("cuda", "cpu"))
    cpus_per_gpu: int = _option(8, "positive", "CPU cores for each GPU", "--cpus-per-gpu")
    mem_per_gpu: str = _option("48G", "memory", "memory for each GPU, e.g. 48G; none: ask for none", "--mem-per-gpu")
    gpu_type: str | None = _option(None, "str", "type of GPU as Slurm names it, e.g. a100", "--gpu-type")
    partition: str | None = _option(None, "str", "Slurm partition", "--partition")
    account: str | None = _option(None, "str", "Slurm account", "--account")
    qos: str | None = _option(None, "str", "Slurm quality of service", "--qos")
    constraint: str | None = _option(None, "str", "node features that Slurm must find", "--constraint")
    exclude: str | None = _option(None, "str", "nodes to leave out", "--exclude")
    reservation: str | None = _option(None, "str", "Slurm reservation", "--reservation")
    exclusive: bool = _option(False, "bool", "share the nodes with no other job", "--exclusive")
    time: str = _option("24:00:00", "time", "time limit: [D-]HH:MM:SS, or minutes", "--time")
    data_root: str | None = _option(None, "path", "folder of the data set (annotations/, train2017/, val2017/)",
                                    "--data-root")
    stage: str = _option(BOTH, "choice", f"what each node copies to its scratch: {', '.join(STAGED)}", "--stage",
                         STAGED)
    scratch: str | None = _option(None, "path", "folder on each node's disk for staged data, best one that persists; "
                                  "default: the node's $SLURM_TMPDIR, or $TMPDIR", "--scratch")
    stage_or_fail: bool = _option(False, "bool", "end where the data cannot be staged, rather than read it from shared "
                                  "storage", "--stage-or-fail")
    broadcast: bool = _option(False, "bool", "nodes pass staged data on to each other, so that shared storage is read "
                              "once", "--broadcast")
    runs_dir: str = _option("runs", "path", "folder that holds the run directories, on shared storage", "--runs-dir")
    share: str = _option("none", "choice", "who may read the run besides its owner: none, group or all; never the "
                         "values of env", "--share", tuple(sharing.READABLE))
    seed: int = _option(0, "int", "seed of order, augmentation and initialisation", "--seed")
    threads: int = _option(0, "int", "CPU threads of each rank; 0: 1 on GPUs, cpus_per_gpu on CPU", "--threads")
    checkpoint_every: int = _option(0, "int", "iterations between checkpoints; 0: only by time and at epochs' ends",
                                    "--checkpoint-every")
    checkpoint_minutes: float = _option(15.0, "number", "minutes between checkpoints; 0: never by time",
                                        "--checkpoint-minutes")
    keep: int = _option(2, "positive", "checkpoints to keep besides those at epochs' ends, two at least", "--keep")
    on_nan: str = _option("warn", "choice", "where the loss is no longer a finite number: warn and go on, as mmdet "
                          "does, or stop", "--on-nan", ("warn", "stop"))
    hang_minutes: float = _option(30.0, "number", "minutes of silence after which a start or a save counts as hung; "
                                  "a step after a sixth of it, if 20 times the usual is less; 0: never",
                                  "--hang-minutes")
    signal_lead: int = _option(120, "positive", "seconds before the time limit at which Slurm warns the job",
                               "--signal-lead")
    evaluation: Evaluation = field(default_factory=Evaluation, metadata={
        "kind": "block", "help": "how checkpoints are scored", "flag": None, "choices": ()})
    options: dict[str, Any] = _option({}, "map", "mmdet options, e.g. {optimizer.lr: 0.01}")
    code: str | None = _option(None, "path", "folder of the user's own Python modules, importable in the run", "--code")
    setup: list[str] = _option([], "lines", "shell lines before the program starts, e.g. module load cuda/12.8")
    env: dict[str, str] = _option({}, "variables", "environment variables of the job; its owner alone can read the "
                                  "values", secret=True)
    python: str | None = _option(None, "path", "Python on the compute nodes; default: the one that submits", "--python")
    slurm: dict[str, Any] = _option({}, "map", "any further sbatch option, e.g. {mail-type: END}; null leaves a line "
                                    "of the launcher's off")
    srun: dict[str, Any] = _option({}, "map", "further options of the srun that starts the tasks, e.g. "
                                   "{container-image: /images/ecm.sqsh}")

    def __post_init__(self) -> None:
        check(self)
        sbatch_options.check(self.slurm)
        sbatch_options.check_srun(self.srun)

    @property
    def world_size(self) -> int:
        """Ranks in total."""
        return self.nodes * self.gpus

    @property
    def threads_per_rank(self) -> int:
        """CPU threads that torch may use in each rank: part of what makes a run repeatable bit by bit."""
        if self.threads:
            return self.threads
        return self.cpus_per_gpu if self.device == "cpu" else 1

    @property
    def time_minutes(self) -> int:
        return parse_time(self.time)

    @property
    def memory_mib(self) -> int | None:
        """Memory for each GPU in MiB; None where the job asks for it in another way, or not at all."""
        other = sbatch_options.FOR_MEMORY & {sbatch_options.name_of(key) for key in self.slurm}
        return None if other or self.mem_per_gpu == NO_MEMORY else parse_memory(self.mem_per_gpu)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def as_record(self) -> dict[str, Any]:
        """The job as others may see it: without the values of ``env``."""
        return {**asdict(self), "env": dict.fromkeys(self.env, SET)}


def check(options: Any, prefix: str = "") -> None:
    """Check every field of a job or of its evaluation block against its declaration."""
    for f in fields(options):
        _check_field(f, getattr(options, f.name), prefix)


def _check_field(f: Any, value: Any, prefix: str) -> None:
    kind, what = f.metadata["kind"], f"{prefix}{f.name}"
    if kind == "block":
        check(value, f"{what}.")
    elif value is not None or f.default is not None:
        check_value(what, value, kind, f.metadata["choices"])


def site_file() -> Path | None:
    """The site's defaults: ``$ECM_CLUSTER_SITE``, else ``~/.config/ecm-cluster/cluster.yaml``; None without a home."""
    if os.environ.get(SITE_ENV):
        return Path(os.environ[SITE_ENV])
    config_home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(config_home) / "ecm-cluster" / "cluster.yaml" if os.path.isabs(config_home) else None


def load(job_file: str | None, flags: Mapping[str, Any],
         shell: Mapping[str, tuple[str, str]] | None = None) -> Job:
    """Merge site file, job file and flags into a validated job.

    Args:
        job_file: A path, or the bare name of a file in ``jobs/``; None: the defaults.
        flags: What was given on the command line, by field name; ``options`` is merged into the file's.
        shell: For keys that none of them gives: the variable of the user's shell that does, and its value.
    """
    merged: dict[str, Any] = {}
    site, named = site_file(), os.environ.get(SITE_ENV)
    if site is not None and named != os.devnull and (named or os.path.exists(site)):
        try:
            values = read_yaml(site)
        except UserError as error:
            raise UserError(f"{SITE_ENV}: {error}" if named else str(error)) from None
        _merge(merged, values, f"{site}: ")
    if job_file is not None:
        path = shipped.find_job_file(job_file)
        _merge(merged, read_yaml(path), f"{path}: ")
    _merge(merged, flags, "")
    kinds = {f.name: f.metadata["kind"] for f in fields(Job)}
    for key, (variable, value) in (shell or {}).items():
        into = merged if key in kinds else merged.setdefault("slurm", {})
        if isinstance(into, dict) and key not in into:
            check_value(variable, value, kinds.get(key, "str"), ())
            into[key] = value
    return make(merged)


def make(values: Mapping[str, Any]) -> Job:
    """A job from plain values (as in run.json), with its evaluation block."""
    values = dict(values)
    block = values.pop("evaluation", None) or {}
    return Job(**values, evaluation=Evaluation(**block))


def _merge(into: dict[str, Any], new: Mapping[str, Any], where: str) -> None:
    for key, value in new.items():
        try:
            value = _checked(key, value)
        except UserError as error:
            raise UserError(f"{where}{error}") from None
        if isinstance(value, Mapping):
            value = laid_over(into.get(key, {}), value) if key == "options" else {**into.get(key, {}), **value}
        into[key] = value


def _checked(key: str, value: Any) -> Any:
    """The value of a key of a site file, a job file or the command line, as a job has it."""
    if key not in Job.__dataclass_fields__:
        raise one_of("key", key, Job.__dataclass_fields__)
    if key == "evaluation":
        value = {"enabled": value} if isinstance(value, bool) else value
        if not isinstance(value, Mapping):
            raise UserError(f"evaluation: {shown(value)} is not legal; give a block of keys, or true or false")
        for inner in value:
            if inner not in Evaluation.__dataclass_fields__:
                raise one_of("evaluation: key", inner, Evaluation.__dataclass_fields__)
        return {inner: _plain(Evaluation.__dataclass_fields__[inner], one, "evaluation.")
                for inner, one in value.items()}
    value = _plain(Job.__dataclass_fields__[key], value)
    if key in BLOCKS:
        BLOCKS[key](value)
        sbatch_options.check_spelled_once(key, value)
    return value


def _plain(f: Any, value: Any, prefix: str = "") -> Any:
    """A value as a field has it; times and variables may be numbers in YAML."""
    kind = f.metadata["kind"]
    if kind == "time" and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    elif kind == "variables" and isinstance(value, Mapping):
        value = {k: str(v) if isinstance(v, (int, float)) else v for k, v in value.items()}
    _check_field(f, value, prefix)
    return value


def add_flags(parser: argparse.ArgumentParser, only: tuple[str, ...] | None = None) -> None:
    """Give a parser one flag for each field that has one, with the field's help and default.

    Args:
        only: Names of the fields that are meant, for a job that has values already: then no default is shown.
    """
    for f in fields(Job):
        meta, flag = f.metadata, f.metadata["flag"]
        if flag is None or (only is not None and f.name not in only):
            continue
        default = None if f.default is MISSING or only is not None else f.default
        text = meta["help"] + ("" if default in (None, False) else f" (default: {default})")
        kind = meta["kind"]
        if kind == "bool":
            parser.add_argument(flag, dest=f.name, action="store_const", const=True, default=None, help=text)
            continue
        convert = {"int": int, "positive": int, "number": float}.get(kind, str)
        metavar = {int: "N", float: "X"}.get(convert, flag.strip("-").replace("-", "_").upper())
        parser.add_argument(flag, dest=f.name, type=convert, default=None, help=text, metavar=metavar)


def given_flags(args: argparse.Namespace) -> dict[str, Any]:
    """What the user gave of the flags made by :func:`add_flags`, by field name.

    Raises:
        UserError: A value is not legal.
    """
    flags = [f for f in fields(Job) if f.metadata["flag"]]
    given = [(f, getattr(args, f.name)) for f in flags if getattr(args, f.name, None) is not None]
    for f, value in given:
        if value != "" or f.default is not None:  # which withdraws a value
            check_value(f.name, value, f.metadata["kind"], f.metadata["choices"])
    return {f.name: value for f, value in given}


def withdrawn(given: Mapping[str, Any]) -> dict[str, Any]:
    """Flags with None for each that withdraws a value: ``--reservation ''``."""
    optional = {f.name for f in fields(Job) if f.default is None}
    return {name: None if value == "" and name in optional else value for name, value in given.items()}
