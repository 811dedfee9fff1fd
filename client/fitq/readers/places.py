"""Where the first point of a job that cannot be fitted was read: the message of its fit names the place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fitq_shared.jobs.columns import list_lengths, replace_columns
from fitq_shared.jobs.points import find_unfit

#: Names where a point was read, by the position of its job in the input and its own in the job, both from 0.
Point: TypeAlias = Callable[[int, int], str]


def add_places(batches: Iterable[pa.RecordBatch], point: Point) -> Iterator[pa.RecordBatch]:
    """The batches of JOB_SCHEMA, `place` filled in where a job gives a point that cannot be fitted."""
    for batch in batches:
        yield _add_places(batch, point)


def _add_places(jobs: pa.RecordBatch, point: Point) -> pa.RecordBatch:
    counts = list_lengths(jobs["x"])
    wrong = np.flatnonzero(find_unfit(_flat(jobs["x"]), _flat(jobs["y"]), _weights(jobs["weights"], counts)))
    if not len(wrong):
        return jobs
    ends = np.cumsum(counts)
    rows, firsts = np.unique(np.searchsorted(ends, wrong, side="right"), return_index=True)
    samples = wrong[firsts] - (ends - counts)[rows]
    places: list[str | None] = [None] * len(jobs)
    first = jobs["index"][0].as_py()
    for row, sample in zip(rows.tolist(), samples.tolist(), strict=True):
        places[row] = point(first + row, sample)
    return replace_columns(jobs, {"place": pa.array(places, pa.string())})


def _weights(lists: pa.ListArray, counts: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """The weight of each point, 1 where a job gives none; None where no job gives any."""
    if lists.null_count == len(lists):
        return None
    if not lists.null_count:
        return _flat(lists)
    weights = np.ones(counts.sum())
    weights[np.repeat(np.asarray(lists.is_valid()), counts)] = _flat(lists)
    return weights


def _flat(lists: pa.ListArray) -> NDArray[np.float64]:
    """The values of all lists, NaN for null."""
    values: NDArray[np.float64] = lists.flatten().to_numpy(zero_copy_only=False)
    return values
