"""Jobs and the sample sets that some of them share, cut and joined together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fitq_shared.jobs.columns import replace_columns

Indices: TypeAlias = NDArray[np.int64]


class Rows(NamedTuple):
    """Jobs, and the sample sets to which `sample_set` of some of them refers."""

    jobs: pa.RecordBatch
    sets: pa.RecordBatch | None = None

    def references(self) -> tuple[Indices, Indices]:
        """The rows that refer to a set, and the set of each."""
        column = self.jobs["sample_set"]
        return np.flatnonzero(column.is_valid()), np.asarray(column.drop_null(), dtype=np.int64)

    def slice(self, start: int, rows: int | None = None) -> Rows:
        """Some of the rows with the sets to which they refer."""
        jobs = self.jobs.slice(start, rows)
        if self.sets is None:
            return Rows(jobs)
        used = jobs["sample_set"].dictionary_encode()
        if not len(used.dictionary):
            return Rows(jobs)
        return Rows(replace_columns(jobs, {"sample_set": used.indices}), self.sets.take(used.dictionary))


def join(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, in their order."""
    if len(parts) == 1:
        return parts[0]
    batches, sets, first = [], [], 0
    for part in parts:
        batches.append(_renumber(part.jobs, first) if first and part.sets is not None else part.jobs)
        if part.sets is not None:
            sets.append(part.sets)
            first += len(part.sets)
    return Rows(pa.concat_batches(batches), pa.concat_batches(sets) if sets else None)


def _renumber(jobs: pa.RecordBatch, first: int) -> pa.RecordBatch:
    return replace_columns(jobs, {"sample_set": pc.add(jobs["sample_set"], pa.scalar(first, pa.int32()))})
