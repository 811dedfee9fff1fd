"""Single jobs become record batches; ids are held to be unique on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import pyarrow as pa

from fitq_shared.errors import InputError, JobError
from fitq_shared.frames import jobs_batch
from fitq_shared.jobs import FitJob, job_from_mapping

#: A batch has at most this many jobs and, beyond one job, this many samples (some 100 MB as Python numbers).
BATCH_JOBS = 4096
BATCH_SAMPLES = 1_000_000


def from_jobs(jobs: Iterable[FitJob | Mapping[str, object]]) -> Iterator[pa.RecordBatch]:
    """Jobs made in Python, checked; dictionaries have the fields of FitJob.

    Raises:
        JobError: the first job that breaks a rule, named by its position.
    """
    return in_batches(((number, _checked(job, _position(number))) for number, job in enumerate(jobs)), _position)


def in_batches(jobs: Iterable[tuple[int, FitJob]], place: Callable[[int], str]) -> Iterator[pa.RecordBatch]:
    """Checked jobs, each with a number that says where it came from, as record batches; `place` names such a number.

    Raises:
        JobError: an id occurs twice; the text names both places.
    """
    seen: dict[str, int] = {}
    batch: list[FitJob] = []
    first = samples = 0
    for number, job in jobs:
        name = job.id or str(first + len(batch))
        if (earlier := seen.setdefault(name, number)) != number:
            raise JobError(f"already used at {place(earlier)}; ids must differ", field="id", value=name, place=place(number))
        if batch and (len(batch) == BATCH_JOBS or samples + len(job.x or ()) > BATCH_SAMPLES):
            yield jobs_batch(batch, first)
            first, samples, batch = first + len(batch), 0, []
        batch.append(job)
        samples += len(job.x or ())
    if batch:
        yield jobs_batch(batch, first)


def _checked(job: object, place: str) -> FitJob:
    if isinstance(job, Mapping):
        return job_from_mapping(job, place)
    if not isinstance(job, FitJob):
        raise InputError(f"{place}: {type(job).__name__} is no job; give a FitJob or a dictionary of its fields")
    try:
        return job.checked()
    except JobError as error:
        raise error.at(place) from None


def _position(number: int) -> str:
    return f"jobs[{number}]"
