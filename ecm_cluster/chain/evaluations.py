"""What of a run is scored: checkpoints under settings, as the elements of an array of jobs, and where results lie.

An element names a checkpoint by what it will be (the last one, the end of an epoch, an iteration), so that it can be
submitted before there is such a checkpoint. Its result is in an :class:`~ecm_cluster.rundir.run.Evaluation`, whose
key is made of the checkpoint's digest and of everything else that the model's answers depend on: a second request
finds it there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..attempts import endings
from ..base import files
from ..base.reading import Unreadable
from ..job.job import Job
from ..rundir import checkpoints, records
from ..rundir.checkpoints import Manifest
from ..rundir.run import Evaluation, Run
from ..rundir.spec import Element, LinkRecord, evaluation_job

__all__ = ["Element"]

LAST = "last"


def write(run: Run, link: str, elements: Sequence[Element], job: Job | None = None,
          instead_of: str | None = None) -> None:
    """Put on record what each element of a link is; the order is that of the array's indices.

    Args:
        job: What the link is submitted with; None: the run's own, as it is when it is submitted.
        instead_of: The job whose place this link takes, as Slurm will not run that one again.
    """
    path = run.elements_file(link)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = LinkRecord(tuple(elements), evaluation_job(job) if job else None, instead_of, run.cancel_mark())
    files.write_json(path, record.as_dict())


def link_instead_of(run: Run, job_id: str) -> str | None:
    """The link that takes the place of a job, if there is one."""
    records = ((link, run.link_record(link)) for link in run.links_with_elements())
    return next((link for link, record in records if record and record.instead_of == job_id), None)


def read(run: Run, link: str) -> list[Element]:
    """The elements of a link; the last checkpoint as configured where nothing is on record."""
    record = run.link_record(link)
    return list(record.elements) if record else [Element(LAST, {})]


def iterations_wanted(run: Run) -> set[int]:
    """The iterations at which the training has to commit for what is on record."""
    elements = (element for link in run.links_with_elements() for element in read(run, link))
    return {int(e.at.split()[1]) for e in elements if e.at.startswith("iteration ")}


# ---------------------------------------------------------------------------------------------- found


def resolve(run: Run, at: str, counting: Sequence[Manifest] | None = None) -> Manifest | None:
    """The checkpoint that is meant, if it is committed and counts; the last one only of a complete run.

    Args:
        counting: What :func:`checkpoints.accepted` says, to ask it once for many.
    """
    if at == LAST:
        return checkpoints.last(run)
    unit, number = at.split()
    counting = checkpoints.accepted(run) if counting is None else counting
    if unit == "epoch":
        found = [m for m in counting if _ends_epoch(m, int(number))]
        return found[-1] if found else None
    # by iteration, so the first is that of the iteration itself, or of the step that it was a part of
    found = [m for m in counting if m.holds(int(number))]
    return next((m for m in reversed(found) if m.iteration == found[0].iteration), None)


def _ends_epoch(checkpoint: Manifest, number: int) -> bool:
    """Whether it stands at the end of the epoch of that number, from 1, or behind the step in which that one ended."""
    ahead = checkpoint.epoch - number
    if not checkpoint.epoch_end or ahead <= 0:
        return checkpoint.epoch_end and ahead == 0
    # several epochs may end inside one step
    per_epoch = (checkpoint.iteration - checkpoint.position) // checkpoint.epoch
    return per_epoch * ahead + checkpoint.position < checkpoint.step


def evaluation_of(run: Run, checkpoint: Manifest, settings: Mapping[str, Any]) -> Evaluation:
    """Where a checkpoint's answers under detection settings are, or will be."""
    digests = run.spec.digests
    basis = [checkpoint.digest, digests.get("config"), digests.get("val_annotations"), dict(settings)]
    key = hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()[:10]
    return run.evaluation(f"iter_{checkpoint.iteration:07d}-{key}")


def works(run: Run, elements: Iterable[Element]) -> list[Evaluation | None]:
    """The evaluation of each element, None as long as its checkpoint is not committed; one look at the checkpoints."""
    counting = checkpoints.accepted(run)
    found = [(resolve(run, element.at, counting), element) for element in elements]
    return [None if checkpoint is None else evaluation_of(run, checkpoint, element.settings)
            for checkpoint, element in found]


def of_element(run: Run, element: Element) -> Evaluation | None:
    """The evaluation of one element; None as long as its checkpoint is not committed."""
    return works(run, [element])[0]


def is_done(work: Evaluation, scoring: Iterable[Mapping[str, Any]]) -> bool:
    """Whether an evaluation has the figures of every one of these ways to score."""
    return all(work.metrics(scoring_variant(way)) is not None for way in scoring)


def scoring_variant(scoring: Mapping[str, Any]) -> str:
    """A short name for a way to score; empty for the usual one."""
    if not scoring:
        return ""
    return hashlib.sha256(json.dumps(dict(scoring), sort_keys=True).encode()).hexdigest()[:8]


def done(run: Run, element: Element) -> bool:
    return all_done(run, [element])


def all_done(run: Run, elements: Sequence[Element]) -> bool:
    return all(work is not None and is_done(work, element.scoring)
               for element, work in zip(elements, works(run, elements)))


def chain_done(run: Run, link: str) -> bool:
    """Whether every element of a link is scored."""
    return all_done(run, read(run, link))


def chunk_files(work: Evaluation) -> list[Path] | None:
    """The chunks that the model's answers are divided into, written or not; None before the first start."""
    try:
        count = records.read(work.chunks_file, records.CHUNKS)["chunks"]
    except FileNotFoundError:
        return None
    except Unreadable as error:
        work.note(error)
        return None
    return [work.chunk_file(number) for number in range(count)]


def has_detections(work: Evaluation) -> bool:
    """Whether the model has answered on all images already, so that no GPU is needed any more."""
    chunks = chunk_files(work)
    return chunks is not None and all(path.exists() for path in chunks)


def awaited(run: Run) -> set[str]:
    """Names of the checkpoints that an evaluation still needs.

    Those of the run's own evaluation are needed until they are scored; those of a sweep only while its job is on
    record, was not cancelled, and has not ended for good.
    """
    names, counting = set(), checkpoints.accepted(run)
    jobs = {submission.link: submission.job_id for submission in run.submissions() if submission.token}
    for link in run.links_with_elements():
        sweep = link.startswith("sweep")
        if run.cancelled(link) or (sweep and link not in jobs):
            continue
        for element in read(run, link):
            checkpoint = resolve(run, element.at, counting)
            if checkpoint is None or checkpoint.file in names:
                continue
            work = evaluation_of(run, checkpoint, element.settings)
            if not is_done(work, element.scoring) and not (sweep and _given_up(work, jobs[link])):
                names.add(checkpoint.file)
    return names


def _given_up(work: Evaluation, job_id: str | None) -> bool:
    """Whether a job has ended an evaluation for good; a later job may try it again."""
    end = endings.newest_end(work)
    if end is None or job_id is None or endings.decide(work).action != "stop":
        return False
    own = end["start"].split(":")[1] if end.kind == "not-started" else work.read_attempt(end.attempt).get("job_id")
    return str(own).partition("_")[0] == job_id
