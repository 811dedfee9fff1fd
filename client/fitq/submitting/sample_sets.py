"""Sample sets that jobs share: equal ones are found, and each is kept once."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fitq_shared.jobs.columns import list_lengths, replace_columns
from fitq_shared.jobs.rows import Indices, Rows
from fitq_shared.jobs.sampling import mix
from fitq_shared.jobs.schemas import SETS_SCHEMA

#: Values of each list that its hash looks at: one tells most jobs without repetition apart, the others need more.
QUICK_PROBES, PROBES = 1, 32

Hashes: TypeAlias = NDArray[np.uint64]


def share_sets(rows: Rows) -> Rows:
    """The same jobs with every sample set once, where this leaves at most half as many sets as jobs; else as given."""
    jobs = rows.jobs
    inline = jobs["x"].is_valid()
    if not inline.true_count and rows.sets is None:
        return rows
    pool = _sets_of(jobs if inline.true_count == len(jobs) else jobs.filter(inline))
    if rows.sets is not None:
        pool = pa.concat_batches([rows.sets, pool])
    first = _first_equal(pool, len(jobs) // 2)
    if first is None:
        return rows
    kept, number = np.unique(first, return_inverse=True)
    if len(kept) > len(jobs) // 2:
        return rows
    known = 0 if rows.sets is None else len(rows.sets)
    column = np.empty(len(jobs), dtype=np.int32)
    column[np.asarray(inline)] = number[known:]
    referring, sets = rows.references()
    column[referring] = number[sets]
    nothing = {field.name: pa.nulls(len(jobs), field.type) for field in SETS_SCHEMA}
    return Rows(replace_columns(jobs, {**nothing, "sample_set": pa.array(column)}), pool.take(pa.array(kept)))


def _first_equal(pool: pa.RecordBatch, most: int) -> Indices | None:
    """For each set the first one that is equal to the bit; None when more than `most` sets are different."""
    for probes in (QUICK_PROBES, PROBES):
        codes = pa.array(_hashes(pool, probes)).dictionary_encode()
        if len(codes.dictionary) > most:
            return None
    indices, code = np.arange(len(pool)), codes.indices.to_numpy()
    first = np.empty(len(codes.dictionary), dtype=np.int64)
    first[code[::-1]] = indices[::-1]  # the last to be written is the first that has the hash
    return _confirm(pool, first[code])


def _hashes(pool: pa.RecordBatch, probes: int) -> Hashes:
    """A hash of the lengths of each set and of some of its values, evenly spaced."""
    hashes = np.zeros(len(pool), dtype=np.uint64)
    for lists in pool.columns:
        values, lengths = _bits(lists.values), list_lengths(lists, missing=-1)
        hashes = hashes + lengths.astype(np.uint64)
        if lists.null_count == len(lists) or not len(values):
            continue
        starts = lists.offsets.to_numpy()[:-1]
        for probe in range(probes):
            # Nothing is read of an empty list; its index only has to exist.
            index = np.minimum(starts + np.maximum(lengths, 0) * (2 * probe + 1) // (2 * probes), len(values) - 1)
            hashes = mix(hashes ^ np.where(lengths > 0, values[index], np.uint64(0)))
    return hashes


def _confirm(pool: pa.RecordBatch, first: Indices) -> Indices:
    """`first`, but the index of the set itself where the two are not equal."""
    indices = np.arange(len(pool))
    lengths = np.stack([list_lengths(lists, missing=-1) for lists in pool.columns])
    first = np.where((lengths == lengths[:, first]).all(axis=0), first, indices)
    same = np.ones(len(pool), dtype=bool)
    for lists, counts in zip(pool.columns, lengths, strict=True):
        differ = _bits(lists.flatten()) != _bits(lists.take(pa.array(first)).flatten())
        until = np.concatenate([[0], np.cumsum(differ)])
        ends = np.cumsum(np.maximum(counts, 0))
        same &= until[ends] == until[ends - np.maximum(counts, 0)]
    return np.where(same, first, indices)


def _bits(values: pa.DoubleArray) -> Hashes:
    return np.ascontiguousarray(values.to_numpy(zero_copy_only=False), dtype=np.float64).view(np.uint64)


def _sets_of(jobs: pa.RecordBatch) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([jobs[field.name] for field in SETS_SCHEMA], schema=SETS_SCHEMA)
