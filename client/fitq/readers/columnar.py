"""Tables of jobs, one a row, become record batches of JOB_SCHEMA without an object for each job.

Columns decide what they can. A row that they leave in doubt is read as a single job, which gives every error its text.
So columns need to be right only about the jobs that they accept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, starmap
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from msgspec.structs import replace
from numpy.typing import NDArray

from fitq.readers.batches import BATCH_JOBS, BATCH_SAMPLES, batch_jobs
from fitq.readers.defaults import fill_defaults
from fitq.readers.instructions import NO_INSTRUCTIONS, Instructions, apply_instructions
from fitq.readers.places import Point, add_places
from fitq.readers.unique import unique
from fitq_shared.errors import InputError, JobError
from fitq_shared.jobs.column_rules import obey_rules
from fitq_shared.jobs.columns import list_lengths, replace_columns
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob, defaults_from_mapping, job_from_mapping

_PANDAS_INDEX = re.compile(r"__index_level_\d+__")
#: A batch has at most this many jobs (and BATCH_SAMPLES samples).
BATCH_ROWS = 32_768


def from_tables(
    tables: Iterable[pa.RecordBatch],
    place: Callable[[int], str],
    defaults: Mapping[str, object] | None = None,
    instructions: Instructions = NO_INSTRUCTIONS,
    point: Point | None = None,
) -> Iterator[pa.RecordBatch]:
    """The jobs of `tables`, whose columns are named like the fields of FitJob and the same in all; null is not given.

    `place` names the position of a job, from 0, and `point` that of a point where it is another; `defaults` fill the
    fields that a row does not give, and `instructions` are for all rows.

    Raises:
        JobError: the first row that is no job, or has an id that occurred before.
    """
    # Columns that are overridden give nothing, and the overrides fill what is not given.
    tables, defaults = iter(tables), {**(defaults or {}), **instructions.overrides}
    if (first := next(tables, None)) is None:
        return
    jobs = add_places(
        _jobs(chain([first], tables), place, defaults, instructions), point or (lambda position, _: place(position))
    )
    # Where no row gives an id, ids are positions.
    yield from unique(jobs, place) if "id" in first.schema.names or "id" in defaults else jobs


def field_names(source: str, names: Sequence[str], instructions: Instructions = NO_INSTRUCTIONS) -> list[str]:
    """The names of columns that are fields of FitJob or tags.

    An index that pandas has stored beside them is none, unless it is named as a tag.

    Raises:
        InputError: another name is neither, or a tag a field, or one occurs twice.
    """
    known = FitJob.__struct_fields__
    names = [name for name in names if name in instructions.tags or not _PANDAS_INDEX.fullmatch(name)]
    instructions.check_tags(source, names)
    tags = instructions.tag_columns(names)
    if unknown := [name for name in names if name not in known and name not in tags]:
        raise InputError(
            f"{source}: {', '.join(unknown)}: no such field; known are {', '.join(known)}. Results carry other columns "
            f"along as tags: --tag {unknown[0]}, or --tags for all of them"
        )
    if fields := [name for name in tags if name in known] + ["tags"] * ("tags" in names and bool(tags)):
        raise InputError(f"{source}: {fields[0]} is a field of a job; rename the column to carry it along as a tag")
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise InputError(f"{source}: {', '.join(twice)}: more than one column of that name; rename or drop the others")
    return names


def check_doubtful_rows(
    jobs: pa.RecordBatch, certainly: NDArray[np.bool_], by_row: Callable[[int], FitJob]
) -> Iterator[pa.RecordBatch]:
    """A batch of JOB_SCHEMA in which `by_row` decides about the rows that are not certain.

    `by_row` returns the job of a row or raises a JobError; the rows before that one come first.
    """
    accepted: list[FitJob] = []
    for row in np.flatnonzero(~certainly).tolist():
        try:
            job = by_row(row)
        except JobError:
            yield from _merge(jobs.slice(0, row), certainly[:row], accepted)
            raise
        accepted.append(job)
    yield from _merge(jobs, certainly, accepted)


def _jobs(
    tables: Iterable[pa.RecordBatch], place: Callable[[int], str], defaults: Mapping[str, object], instructions: Instructions
) -> Iterator[pa.RecordBatch]:
    first = 0
    for rows in (rows for table in tables for rows in _cut_rows(table)):
        try:
            jobs = apply_instructions(rows, instructions, defaults)
        except JobError as error:
            raise error.with_place(place(first)) from None
        yield from _convert(jobs, first, place, defaults)
        first += rows.num_rows


def _convert(
    rows: pa.RecordBatch, first: int, place: Callable[[int], str], defaults: Mapping[str, object]
) -> Iterator[pa.RecordBatch]:
    def job(row: int, fields: dict[str, Any]) -> FitJob:
        if fields.get("tags") is not None:
            fields["tags"] = msgspec.json.decode(fields["tags"])
        return job_from_mapping(fields, place(first + row), defaults)

    try:
        jobs = fill_defaults(rows, first, defaults_from_mapping(defaults))
    except pa.ArrowException:
        parts = (rows.slice(start, BATCH_JOBS).to_pylist() for start in range(0, rows.num_rows, BATCH_JOBS))
        return batch_jobs(starmap(job, enumerate(chain.from_iterable(parts))), first)
    return check_doubtful_rows(jobs, obey_rules(jobs), lambda row: job(row, rows.slice(row, 1).to_pylist()[0]))


def _cut_rows(table: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Slices of at most BATCH_ROWS rows and, beyond one row, BATCH_SAMPLES samples."""
    samples = np.cumsum(_sample_counts(table))
    start = 0
    while start < table.num_rows:
        before = samples[start - 1] if start else 0
        fitting = int(np.searchsorted(samples, before + BATCH_SAMPLES, side="right"))
        end = max(min(fitting, start + BATCH_ROWS), start + 1)
        yield table.slice(start, end - start)
        start = end


def _sample_counts(table: pa.RecordBatch) -> NDArray[np.int64]:
    try:
        return list_lengths(table["x"])
    except (KeyError, pa.ArrowException):  # no x, or no lists: the row will say so
        return np.zeros(table.num_rows, dtype=np.int64)


def _merge(jobs: pa.RecordBatch, certainly: NDArray[np.bool_], accepted: list[FitJob]) -> Iterator[pa.RecordBatch]:
    """The rows of `jobs` that are certain, with `accepted` in place of the others."""
    if accepted:
        source = np.arange(jobs.num_rows)
        source[~certainly] = jobs.num_rows + np.arange(len(accepted))
        numbers = jobs["index"].filter(pa.array(~certainly)).to_pylist()
        named = [job if job.id else replace(job, id=str(number)) for job, number in zip(accepted, numbers, strict=True)]
        merged = pa.concat_batches([jobs, jobs_batch(named)]).take(source)
        jobs = replace_columns(merged, {"index": jobs["index"]})
    if jobs.num_rows:
        yield jobs
