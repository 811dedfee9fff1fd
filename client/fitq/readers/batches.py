"""Single jobs become record batches of JOB_SCHEMA: jobs from Python, and rows that columns leave in doubt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import pyarrow as pa

from fitq.readers.unique import unique
from fitq_shared.errors import InputError, JobError
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob, job_from_mapping

#: A batch has at most this many jobs and, beyond one job, this many samples (some 100 MB as Python numbers).
BATCH_JOBS = 4096
BATCH_SAMPLES = 1_000_000


def from_jobs(jobs: Iterable[FitJob | Mapping[str, object]]) -> Iterator[pa.RecordBatch]:
    """Jobs made in Python, checked; dictionaries have the fields of FitJob.

    Raises:
        JobError: the first job that breaks a rule, named by its position.
    """
    return unique(batch_jobs(_check(job, _position(number)) for number, job in enumerate(jobs)), _position)


def batch_jobs(jobs: Iterable[FitJob], first: int = 0) -> Iterator[pa.RecordBatch]:
    """Checked jobs as record batches, numbered from `first`; what `jobs` raises comes after the jobs before it."""
    batch: list[FitJob] = []
    samples = 0
    try:
        for job in jobs:
            if batch and (len(batch) == BATCH_JOBS or samples + len(job.x or ()) > BATCH_SAMPLES):
                yield jobs_batch(batch, first)
                first, samples, batch = first + len(batch), 0, []
            batch.append(job)
            samples += len(job.x or ())
    except InputError:
        # The batches show everything in the order of the input, errors too.
        if batch:
            yield jobs_batch(batch, first)
        raise
    if batch:
        yield jobs_batch(batch, first)


def _check(job: object, place: str) -> FitJob:
    if isinstance(job, Mapping):
        return job_from_mapping(job, place)
    if not isinstance(job, FitJob):
        raise InputError(f"{place}: {type(job).__name__} is no job; give a FitJob or a dictionary of its fields")
    try:
        return job.checked()
    except JobError as error:
        raise error.with_place(place) from None


def _position(number: int) -> str:
    return f"jobs[{number}]"
