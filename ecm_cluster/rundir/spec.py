"""The records of a run as types: what was submitted, what resumes have changed since, what a link of evaluations is.

Only this module accesses these files by key. Records of earlier versions stay readable: a missing key has its default,
and an unknown one is ignored. Values were validated at submission and are not validated again, so a stricter check of
a later version does not make an old run unreadable.
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
    """The job in a record.

    Args:
        base: Provides the values that are not recorded; None: the defaults.

    Raises:
        UserError: A value does not have the field's type.
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
    """An instance of a frozen dataclass without its own validation; only the type of each value is checked."""
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
    """The shape of a recorded value, by the field's default; fields with default None hold text."""
    if default is None:
        return Maybe(NAME)
    return {str: NAME, int: int, float: Number(whole=False), list: [str]}.get(type(default), type(default))


def evaluation_job(job: Job) -> Job:
    """The job with the resources of its evaluation block; what that does not set is as for the training."""
    own = job.evaluation
    block = replace(own, nodes=own.nodes or 1, gpus=own.gpus or job.gpus, partition=own.partition or job.partition,
                    time=own.time or job.time)
    return recorded_job({"nodes": block.nodes, "gpus": block.gpus, "partition": block.partition, "time": block.time,
                         "evaluation": asdict(block)}, job)


@dataclass(frozen=True)
class RunSpec:
    """What was submitted: the content of run.json, which never changes.

    Attributes:
        run_id: A unique name, for external services.
        cluster: ``slurm`` or ``local``.
        cwd: The directory in which it was submitted and every attempt runs.
        virtual_ranks: The number of ranks that determines the order of samples.
        threads: CPU threads per rank of the training.
        checkpoint_every: Iterations between checkpoints; 0: only by time and epochs.
        config: Path of the submitted config; :attr:`Run.config_file` is what is trained.
        job: As submitted; :meth:`Run.job` is the current one.
        annotations: Annotation file of each split.
        digests: Digests of the config and of the annotation files.
        group: Of a run that is one of several: their ``name``, and its ``settings``, the varied values as text.
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
    group: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, record: Any) -> RunSpec:
        """From the content of the file, of the shape :data:`records.RUN`.

        Raises:
            UserError: The job in it is invalid.
        """
        known = _known(cls, record)
        job = recorded_job(known["job"])
        known["virtual_ranks"] = known.get("virtual_ranks") or job.world_size
        return cls(**{**known, "job": job})

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "job": self.job.as_record()}


@dataclass(frozen=True)
class ResumePoint:
    """``resume --from``: the attempt that follows attempt ``after`` resumes at ``iteration``."""

    iteration: int
    after: int


@dataclass
class Overrides:
    """What resumes have changed since the submission.

    Attributes:
        job: Changed options.
        point: See :func:`ecm_cluster.chain.chain.resume_point`.
        virtual_ranks: If the run was rescaled.
        code: Record of a newer snapshot, with the ``number`` of its directory.
        not_kept: Guarantees of exactness that a resume gave up.
    """

    job: dict[str, Any] = field(default_factory=dict)
    point: ResumePoint | None = None
    virtual_ranks: int | None = None
    code: dict[str, Any] = field(default_factory=dict)
    not_kept: list[str] = field(default_factory=list)

    @classmethod
    def from_dict(cls, record: Any) -> Overrides:
        """From the content of the file, of the shape :data:`records.OVERRIDES`."""
        known, point = _known(cls, record), record.get("from")
        return cls(**{**known, "point": ResumePoint(**_known(ResumePoint, point)) if point else None})

    def as_dict(self) -> dict[str, Any]:
        point = asdict(self.point) if self.point else None
        return {key: value for key, value in {**asdict(self), "point": None, "from": point}.items() if value}


@dataclass(frozen=True)
class Element:
    """One checkpoint with one set of detection settings, scored in one or several variants.

    Attributes:
        at: ``last``, ``epoch N`` or ``iteration N``.
        settings: Detection settings.
        scoring: Scoring settings, one dict per variant.
    """

    at: str
    settings: dict[str, Any]
    scoring: tuple[dict[str, Any], ...] = ({},)


@dataclass(frozen=True)
class LinkRecord:
    """The record of a link of evaluations.

    Attributes:
        elements: What each element of its job array scores, by index.
        job: The job that it was submitted with, with the resources of the evaluation; None: the run's current job.
        instead_of: The job that it replaces, as Slurm will not run that one again.
        after_cancel: The run's cancel mark at the time of submission, which does not apply to this link.
    """

    elements: tuple[Element, ...]
    job: Job | None = None
    instead_of: str | None = None
    after_cancel: dict[str, Any] | None = None

    @classmethod
    def from_dict(cls, record: Any, base: Callable[[], Job]) -> LinkRecord:
        """From the content of the file (:data:`records.ELEMENTS`); ``base`` provides what earlier versions omitted."""
        elements = tuple(Element(e["at"], e["settings"], tuple(e["scoring"])) for e in record["elements"])
        job = recorded_job(record["job"]) if record.get("job") else None
        if job is None and record.get("block"):  # an earlier version recorded only the evaluation block
            job = evaluation_job(recorded_job({"evaluation": record["block"]}, base()))
        return cls(elements, job, record.get("instead_of"), record.get("after_cancel"))

    def as_dict(self) -> dict[str, Any]:
        # the block is for code of an earlier version, which the run may still have
        own = {"block": asdict(self.job.evaluation), "job": self.job.as_record()} if self.job else {}
        return {key: value for key, value in {**asdict(self), **own}.items() if value is not None}


def _known(kind: Any, record: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in record.items() if k in kind.__dataclass_fields__}
