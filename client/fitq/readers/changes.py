"""Jobs that were submitted once become batches of checked jobs again, with other values of some fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fitq.readers.batches import BATCH_SAMPLES
from fitq.readers.columnar import from_tables
from fitq.readers.defaults import without_defaults
from fitq.readers.instructions import Instructions
from fitq_shared.errors import JobError
from fitq_shared.jobs.column_rules import DRAWING_COLUMNS
from fitq_shared.jobs.columns import replace_columns
from fitq_shared.jobs.frames import sample_counts
from fitq_shared.jobs.job import FitJob, defaults_from_mapping
from fitq_shared.jobs.rows import Rows
from fitq_shared.jobs.schemas import JOB_SCHEMA, SETS_SCHEMA

#: Fields that tell one job from another.
_OWN = ("id", "x", "y", "weights", "polynomial", "samples", "tags")
#: What a job keeps of its first reading.
_STAYS = ("index", "tags", "place")


def check_changes(changes: Mapping[str, object]) -> None:
    """Return when these are values that jobs may have.

    Raises:
        JobError: otherwise.
    """
    for name in changes:
        if name in _OWN:
            raise JobError("is each job's own and cannot be changed", field=name, value=changes[name], place="changes")
    defaults_from_mapping(changes, "changes")


def change_jobs(rows: Rows, changes: Mapping[str, object]) -> Iterator[pa.RecordBatch]:
    """The same jobs, each with its own samples, as batches of JOB_SCHEMA; `changes` are values of fields of FitJob.

    A value that is the default of the job's optimizer becomes that of another one: whether it was given is not known.

    Raises:
        JobError: a job breaks a rule with the changes.
    """
    for part in _portions(rows):
        jobs = _with_samples(part)
        yield from _changed(jobs, changes) if changes else [jobs]


def _portions(rows: Rows) -> Iterator[Rows]:
    """Rows with at most BATCH_SAMPLES samples, beyond one row."""
    ends = np.cumsum(sample_counts(rows.jobs, rows.sets))
    start = 0
    while start < len(ends):
        before = ends[start - 1] if start else 0
        end = max(int(np.searchsorted(ends, before + BATCH_SAMPLES, side="right")), start + 1)
        yield rows.slice(start, end - start)
        start = end


def _with_samples(rows: Rows) -> pa.RecordBatch:
    if rows.sets is None:
        return rows.jobs
    referring, sets = rows.references()
    places = np.arange(len(rows.jobs))
    places[referring] = len(rows.jobs) + sets
    columns = {
        name: pa.concat_arrays([rows.jobs[name], rows.sets[name]]).take(pa.array(places)) for name in SETS_SCHEMA.names
    }
    return replace_columns(rows.jobs, {**columns, "sample_set": pa.nulls(len(rows.jobs), pa.int32())})


def _changed(jobs: pa.RecordBatch, changes: Mapping[str, object]) -> Iterator[pa.RecordBatch]:
    # A column of `init` holds either lists or the word.
    for some in (jobs.filter(jobs["init_exact"]), jobs.filter(pc.invert(jobs["init_exact"]))):
        if len(some):
            read = from_tables([_table(some)], lambda _: "", instructions=Instructions(overrides=changes))
            checked = pa.concat_batches(list(read))
            yield replace_columns(checked, {name: some[name] for name in _STAYS})


def _table(jobs: pa.RecordBatch) -> pa.RecordBatch:
    """Jobs as a table of the fields of FitJob, as readers take it."""
    columns = {name: jobs[name] for name in FitJob.__struct_fields__ if name in JOB_SCHEMA.names and name not in _STAYS}
    columns |= without_defaults(columns)
    columns["samples"] = pa.StructArray.from_arrays([jobs[name] for name in DRAWING_COLUMNS.values()], list(DRAWING_COLUMNS))
    if jobs["init_exact"][0].as_py():
        columns["init"] = pa.repeat("exact", len(jobs))
    return pa.RecordBatch.from_pydict(columns)
