"""Job: what to run where. A job file (YAML), the user's site file and flags, merged, validated, frozen.

Each option is declared once, as a field of :class:`Job` with its help; the command line, the list of valid keys
and the checks all come from there. Flags take precedence over the job file, and the job file over the site file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import UserError, one_of, shown
from ..base.units import NO_MEMORY, SET, parse_memory, parse_time
from ..base.yaml_file import read_yaml
from ..mmconfig import shipped
from ..mmconfig.options import laid_over
from . import notify_options, sbatch_options, sharing, tracker_options
from .evaluation_options import EVALUATION, EvaluationOptions
from .option import (
    BOOL,
    COUNT,
    LINES,
    MAPPING,
    MEMORY,
    PATH,
    TEXT,
    TIME,
    VARIABLES,
    Option,
    Reader,
    choice,
    number,
    option,
    options,
    whole,
)

SITE_ENV = "ECM_CLUSTER_SITE"
# what each node copies to its scratch
BOTH, ANNOTATIONS, NOTHING = STAGED = ("images+annotations", "annotations", "none")
DEFAULT_CONFIG = "configs/ecm/mask_rcnn_r50_1x.py"
# keys whose mappings are merged in a way of their own, where several files and flags have them
MERGED = {"options": laid_over, "trackers": tracker_options.laid_over}
RESOURCES, STAGING = "resources", "staging"  # groups of options: what a job asks for, and what its nodes copy


def _sbatch(given: Any) -> dict[str, Any]:
    own = {one.slurm: name for name, one in OPTIONS.items() if isinstance(one.slurm, str)}
    sbatch_options.check(MAPPING.read(given), own)
    return given


def _srun(given: Any) -> dict[str, Any]:
    sbatch_options.check_srun(MAPPING.read(given))
    return given


@dataclass(frozen=True)
class Job:
    """One training run: what to learn (config) and where. Raises :class:`UserError` when a value is invalid."""

    config: str = option(DEFAULT_CONFIG, PATH, "mmdet config: a path, one of configs/, or mmdet::PATH", "--config")
    name: str | None = option(None, TEXT, "name of the run; default: the config's name and a number", "--name")
    nodes: int = option(1, whole(1), "number of nodes", "--nodes", RESOURCES)
    gpus: int = option(1, whole(1), "GPUs per node; one task (rank) runs on each", "--gpus", RESOURCES)
    device: str = option("cuda", choice("cuda", "cpu"), "cuda, or cpu: then each 'GPU' is a CPU rank", "--device")
    cpus_per_gpu: int = option(8, whole(1), "CPU cores for each GPU", "--cpus-per-gpu", RESOURCES)
    mem_per_gpu: str = option("48G", MEMORY, "memory for each GPU, e.g. 48G; none: request none", "--mem-per-gpu",
                              RESOURCES)
    gpu_type: str | None = option(None, TEXT, "type of GPU as Slurm names it, e.g. a100", "--gpu-type", RESOURCES, True)
    partition: str | None = option(None, TEXT, "Slurm partition", "--partition", RESOURCES, "partition")
    account: str | None = option(None, TEXT, "Slurm account", "--account", RESOURCES, "account")
    qos: str | None = option(None, TEXT, "Slurm quality of service", "--qos", RESOURCES, "qos")
    constraint: str | None = option(None, TEXT, "node features that Slurm must find", "--constraint", RESOURCES,
                                    "constraint")
    exclude: str | None = option(None, TEXT, "nodes to exclude", "--exclude", RESOURCES, "exclude")
    reservation: str | None = option(None, TEXT, "Slurm reservation", "--reservation", RESOURCES, "reservation")
    exclusive: bool = option(False, BOOL, "share the nodes with no other job", "--exclusive", RESOURCES, True)
    time: str = option("24:00:00", TIME, "time limit: [D-]HH:MM:SS, or minutes", "--time", RESOURCES)
    data_root: str | None = option(None, PATH, "directory of the data set (annotations/, train2017/, val2017/)",
                                   "--data-root")
    stage: str = option(BOTH, choice(*STAGED), f"what each node copies to its scratch: {', '.join(STAGED)}", "--stage",
                        STAGING)
    scratch: str | None = option(None, PATH, "directory on each node's disk for staged data, preferably one that "
                                 "persists; default: the node's $SLURM_TMPDIR, or $TMPDIR", "--scratch", STAGING)
    stage_or_fail: bool = option(False, BOOL, "fail if the data cannot be staged, instead of reading it from shared "
                                 "storage", "--stage-or-fail", STAGING)
    broadcast: bool = option(False, BOOL, "nodes pass staged data on to each other, so that shared storage is read "
                             "once", "--broadcast", STAGING, True)
    runs_dir: str = option("runs", PATH, "directory that holds the run directories, on shared storage", "--runs-dir")
    share: str = option("none", choice(*sharing.READABLE), "who may read the run besides its owner: none, group or "
                        "all; never the values of env", "--share")
    seed: int = option(0, COUNT, "seed of order, augmentation and initialisation", "--seed")
    threads: int = option(0, COUNT, "CPU threads of each rank; 0: 1 on GPUs, cpus_per_gpu on CPU", "--threads")
    checkpoint_every: int = option(0, COUNT, "iterations between checkpoints; 0: only by time and at the end of each "
                                   "epoch", "--checkpoint-every")
    checkpoint_minutes: float = option(15.0, number(0), "minutes between checkpoints; 0: never by time",
                                       "--checkpoint-minutes")
    keep: int = option(2, whole(1), "checkpoints to keep besides those at the end of an epoch, at least two", "--keep")
    on_nan: str = option("warn", choice("warn", "stop"), "when the loss is no longer finite: warn and continue, as "
                         "mmdet does, or stop", "--on-nan")
    hang_minutes: float = option(30.0, number(0), "minutes without progress after which a start or a save counts as "
                                 "hung; a step after a sixth of that, or 20 times the usual if that is less; 0: never",
                                 "--hang-minutes")
    signal_lead: int = option(120, whole(1), "seconds before the time limit at which Slurm warns the job",
                              "--signal-lead")
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    trackers: dict[str, Any] = option({}, tracker_options.READER, "what shows the training's progress besides the log: "
                                      "tensorboard, wandb or both; with options in a job file", "--trackers")
    options: dict[str, Any] = option({}, MAPPING, "mmdet options, e.g. {optimizer.lr: 0.01}")
    trainer: str | None = option(None, TEXT, "MODULE:FUNCTION that makes the trainer, from --code or installed; "
                                 "default: mmdet's", "--trainer")
    code: str | None = option(None, PATH, "directory of your own Python modules, importable in the run", "--code")
    setup: list[str] = option([], LINES, "shell lines before the program starts, e.g. module load cuda/12.8")
    env: dict[str, str] = option({}, VARIABLES, "environment variables of the job; only its owner can read the values",
                                 secret=True)
    notify: dict[str, Any] = option({}, notify_options.NOTIFY, "where to send a message when the run is done, stopped, "
                                    "failed, preempted, or cannot commit: a list of apprise URLs, or {urls, events, "
                                    "from, partition}; only its owner can read the URLs", secret=True)
    python: str | None = option(None, PATH, "Python on the compute nodes; default: the one that submits", "--python")
    slurm: dict[str, Any] = option({}, Reader(MAPPING.expected, _sbatch), "any further sbatch option, e.g. {mail-type: "
                                   "END}; null omits a line of the launcher's own")
    srun: dict[str, Any] = option({}, Reader(MAPPING.expected, _srun), "further options of the srun that starts the "
                                  "tasks, e.g. {container-image: /images/ecm.sqsh}")

    def __post_init__(self) -> None:
        for prefix, given, declared in (("", self, OPTIONS), ("evaluation.", self.evaluation, EVALUATION)):
            for name, one in declared.items():
                object.__setattr__(given, name, one.read(prefix + name, getattr(given, name)))

    @property
    def world_size(self) -> int:
        """Ranks in total."""
        return self.nodes * self.gpus

    @property
    def is_evaluated(self) -> bool:
        """Whether an evaluation follows the training: mmdet's trainer alone has one."""
        return self.evaluation.enabled and self.trainer is None

    @property
    def threads_per_rank(self) -> int:
        """CPU threads that torch may use in each rank: part of what makes a run bit-reproducible."""
        if self.threads:
            return self.threads
        return self.cpus_per_gpu if self.device == "cpu" else 1

    @property
    def time_minutes(self) -> int:
        return parse_time(self.time)

    @property
    def memory_mib(self) -> int | None:
        """Memory for each GPU in MiB; None if the job requests it in another way, or not at all."""
        other = sbatch_options.FOR_MEMORY & {sbatch_options.name_of(key) for key in self.slurm}
        return None if other or self.mem_per_gpu == NO_MEMORY else parse_memory(self.mem_per_gpu)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def as_record(self) -> dict[str, Any]:
        """The job as others may see it: without the values of ``env`` and the URLs of ``notify``."""
        return {**asdict(self), "env": dict.fromkeys(self.env, SET), "notify": notify_options.masked(self.notify)}


OPTIONS = options(Job)


def site_file() -> Path | None:
    """The site's defaults: ``$ECM_CLUSTER_SITE``, else ``~/.config/ecm-cluster/cluster.yaml``; None without a home."""
    if os.environ.get(SITE_ENV):
        return Path(os.environ[SITE_ENV])
    config_home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(config_home) / "ecm-cluster" / "cluster.yaml" if os.path.isabs(config_home) else None


def load(job_file: str | None, flags: Mapping[str, Any], shell: Mapping[str, tuple[str, str]] | None = None,
         record: Mapping[str, Any] | None = None) -> Job:
    """Merge site file, job file and flags into a validated job.

    Args:
        flags: What was given on the command line, by name of the option; ``options`` is merged into the file's.
        shell: For keys that are in none of these: the variable of the user's shell that sets it, and its value.
        record: Instead of the files: every key of an earlier job.
    """
    if record is not None:
        merged = {key: _checked(key, value) for key, value in record.items()}
        _merge(merged, flags, "")
        return make(merged)
    merged = {}
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
    for key, (variable, value) in (shell or {}).items():
        into = merged if key in OPTIONS else merged.setdefault("slurm", {})
        if isinstance(into, dict) and key not in into:
            into[key] = OPTIONS.get(key, Option(TEXT, "")).read(variable, value)
    return make(merged)


def make(values: Mapping[str, Any]) -> Job:
    """A job from plain values (as in run.json), with its evaluation block."""
    values = dict(values)
    block = values.pop("evaluation", None) or {}
    return Job(**values, evaluation=EvaluationOptions(**block))


def _merge(into: dict[str, Any], new: Mapping[str, Any], where: str) -> None:
    for key, value in new.items():
        try:
            value = _checked(key, value)
        except UserError as error:
            raise UserError(f"{where}{error}") from None
        if isinstance(value, Mapping):
            merge = MERGED.get(key, lambda old, new: {**old, **new})
            value = merge(into.get(key, {}), value)
        into[key] = value


def _checked(key: str, value: Any) -> Any:
    """The value of a key of a site file, a job file or the command line, as a job has it."""
    if key not in Job.__dataclass_fields__:
        raise one_of("key", key, Job.__dataclass_fields__)
    if key == "evaluation":
        value = {"enabled": value} if isinstance(value, bool) else value
        if not isinstance(value, Mapping):
            raise UserError(f"evaluation: invalid value {shown(value)}; expected a block of keys, or true or false")
        for inner in value:
            if inner not in EVALUATION:
                raise one_of("evaluation: key", inner, EVALUATION)
        return {inner: EVALUATION[inner].read(f"evaluation.{inner}", one) for inner, one in value.items()}
    value = OPTIONS[key].read(key, value)
    if key in ("slurm", "srun"):
        sbatch_options.check_spelled_once(key, value)
    return value
