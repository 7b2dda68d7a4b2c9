"""The records of a run, typed: what was submitted, what resumes have changed since, what a stage of evaluations is.

Only this module looks into these files by key. Records of former versions stay readable: a key that is missing has its
default, and one that this version does not know is ignored. What is on record was checked when it was submitted, so a
stricter check of a later version does not make a run unreadable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import Any

from ..base.errors import UserError
from ..base.reading import Maybe, Number, fits
from ..job.evaluation_options import EvaluationOptions
from ..job.job import Job
from .records import NAME


def recorded_job(values: Mapping[str, Any], base: Job | None = None) -> Job:
    """A job from plain values on record.

    Args:
        base: Where what is not given comes from; None: the defaults.

    Raises:
        UserError: A value is not of the field's type.
    """
    block = values.get("evaluation")
    known = {f.name: getattr(base, f.name) if base else _default(f) for f in fields(Job)}
    plain = {k: v for k, v in values.items() if k in known and k != "evaluation"}
    if block is not None:
        plain["evaluation"] = _unchecked(EvaluationOptions, block, "evaluation.")
    return _unchecked(Job, {**known, **plain}, "")


def _default(f: Any) -> Any:
    return f.default if f.default_factory is MISSING else f.default_factory()


def _unchecked(kind: type, values: Any, prefix: str) -> Any:
    """An instance of a frozen dataclass without its own checks; only the type of each value is looked at."""
    if not isinstance(values, Mapping):
        raise UserError(f"job: invalid {prefix or 'record'} {values!r}; expected a mapping")
    made: Any = object.__new__(kind)
    for f in fields(kind):
        default = _default(f)
        value = values.get(f.name, default)
        if not (f.name == "epochs" or value is default or fits(value, _shape(default))):
            raise UserError(f"job: {prefix}{f.name}: invalid value {value!r}; expected {type(default or '').__name__}")
        object.__setattr__(made, f.name, value)
    return made


def _shape(default: Any) -> Any:
    """What a recorded value may be, by the field's default; a default of None is that of a text."""
    if default is None:
        return Maybe(NAME)
    return {str: NAME, int: int, float: Number(whole=False), list: [str]}.get(type(default), type(default))


def evaluation_job(job: Job) -> Job:
    """A job on the resources of its evaluation; what the evaluation block does not say is the training's."""
    own = job.evaluation
    block = replace(own, nodes=own.nodes or 1, gpus=own.gpus or job.gpus, partition=own.partition or job.partition,
                    time=own.time or job.time)
    return recorded_job({"nodes": block.nodes, "gpus": block.gpus, "partition": block.partition, "time": block.time,
                         "evaluation": asdict(block)}, job)


@dataclass(frozen=True)
class RunSpec:
    """What was submitted: run.json, which never changes.

    Attributes:
        run_id: A name that no other run has, for services outside.
        cluster: ``slurm`` or ``local``.
        cwd: The folder in which it was submitted, and in which every attempt runs.
        virtual_ranks: Ranks that the order of samples is made for.
        threads: CPU threads of each rank of the training.
        checkpoint_every: Iterations between checkpoints; 0: none by iterations.
        config: Path of the config as submitted; what is trained is :attr:`Run.config_file`.
        job: As submitted; :meth:`Run.job` says what it is now.
        annotations: Annotation file of each split.
        digests: Of the config and of the annotation files.
    """

    cluster: str
    job: Job
    name: str = ""
    run_id: str = ""
    submitted: float = 0.0
    cwd: str = "."
    virtual_ranks: int = 0
    threads: int = 1
    checkpoint_every: int = 0
    config: str = ""
    batch: dict[str, Any] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    staging: dict[str, Any] | None = None
    digests: dict[str, Any] = field(default_factory=dict)
    class_counts: dict[str, Any] = field(default_factory=dict)
    code: dict[str, Any] = field(default_factory=dict)
    weights: list[Any] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, record: Any) -> RunSpec:
        """The record as it is on disk, of the shape :data:`records.RUN`.

        Raises:
            UserError: The job in it is not one.
        """
        known = _known(cls, record)
        job = recorded_job(known["job"])
        known["virtual_ranks"] = known.get("virtual_ranks") or job.world_size
        return cls(**{**known, "job": job})

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "job": self.job.as_record()}


@dataclass(frozen=True)
class ResumePoint:
    """Where ``resume --from`` goes on: ``iteration``; it holds for the attempt that follows attempt ``after``."""

    iteration: int
    after: int


@dataclass
class Overrides:
    """What resumes have changed since the submission.

    Attributes:
        job: Options as they are now.
        point: See :func:`ecm_cluster.chain.chain.resume_point`.
        virtual_ranks: Of a rescaled run.
        code: Record of a newer snapshot, with the ``number`` of its folder.
        not_kept: What of the run's exactness a resume has given up.
    """

    job: dict[str, Any] = field(default_factory=dict)
    point: ResumePoint | None = None
    virtual_ranks: int | None = None
    code: dict[str, Any] = field(default_factory=dict)
    not_kept: list[str] = field(default_factory=list)

    @classmethod
    def from_dict(cls, record: Any) -> Overrides:
        """The record as it is on disk, of the shape :data:`records.OVERRIDES`."""
        known, point = _known(cls, record), record.get("from")
        return cls(**{**known, "point": ResumePoint(**_known(ResumePoint, point)) if point else None})

    def as_dict(self) -> dict[str, Any]:
        point = asdict(self.point) if self.point else None
        return {key: value for key, value in {**asdict(self), "point": None, "from": point}.items() if value}


@dataclass(frozen=True)
class Element:
    """One checkpoint under one set of detection settings, scored in one way or in several.

    Attributes:
        at: ``last``, ``epoch N`` or ``iteration N``.
        settings: Detection settings.
        scoring: Scoring settings, one dict for each way to score.
    """

    at: str
    settings: dict[str, Any]
    scoring: tuple[dict[str, Any], ...] = ({},)


@dataclass(frozen=True)
class StageRecord:
    """What a stage of evaluations is.

    Attributes:
        elements: What each element of its array scores, in the order of the indices.
        job: The job that it was submitted with, on the evaluation's resources; None: the run's own, as it is now.
        instead_of: The job whose place it takes, as Slurm will not run that one again.
        after_cancel: The cancel mark that the run had when the stage was submitted: that one does not mean this stage.
    """

    elements: tuple[Element, ...]
    job: Job | None = None
    instead_of: str | None = None
    after_cancel: dict[str, Any] | None = None

    @classmethod
    def from_dict(cls, record: Any, base: Callable[[], Job]) -> StageRecord:
        """The record as it is on disk (:data:`records.ELEMENTS`); ``base`` gives what former versions left out."""
        elements = tuple(Element(e["at"], e["settings"], tuple(e["scoring"])) for e in record["elements"])
        job = recorded_job(record["job"]) if record.get("job") else None
        if job is None and record.get("block"):  # a former version knew the evaluation block alone
            job = evaluation_job(recorded_job({"evaluation": record["block"]}, base()))
        return cls(elements, job, record.get("instead_of"), record.get("after_cancel"))

    def as_dict(self) -> dict[str, Any]:
        # the block is for a former version, whose code a run may still have
        own = {"block": asdict(self.job.evaluation), "job": self.job.as_record()} if self.job else {}
        return {key: value for key, value in {**asdict(self), **own}.items() if value is not None}


def _known(kind: Any, record: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in record.items() if k in kind.__dataclass_fields__}
