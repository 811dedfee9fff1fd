"""Jobs and the sample sets that some of them share, cut and joined together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fitq_shared.jobs.frames import JOB_SCHEMA

Places: TypeAlias = NDArray[np.int64]


class Rows(NamedTuple):
    """Jobs, and the sample sets to which `sample_set` of some of them refers."""

    frame: pa.RecordBatch
    sets: pa.RecordBatch | None = None

    def references(self) -> tuple[Places, Places]:
        """The rows that refer to a set, and the set of each."""
        column = self.frame["sample_set"]
        return np.flatnonzero(column.is_valid()), np.asarray(column.drop_null(), dtype=np.int64)

    def slice(self, start: int, rows: int | None = None) -> Rows:
        """Some of the rows with the sets to which they refer."""
        frame = self.frame.slice(start, rows)
        if self.sets is None:
            return Rows(frame)
        used = frame["sample_set"].dictionary_encode()
        if not len(used.dictionary):
            return Rows(frame)
        return Rows(replaced(frame, {"sample_set": used.indices}), self.sets.take(used.dictionary))


def joined(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, in their order."""
    if len(parts) == 1:
        return parts[0]
    frames, sets, first = [], [], 0
    for part in parts:
        frames.append(_renumbered(part.frame, first) if first and part.sets is not None else part.frame)
        if part.sets is not None:
            sets.append(part.sets)
            first += len(part.sets)
    return Rows(pa.concat_batches(frames), pa.concat_batches(sets) if sets else None)


def replaced(jobs: pa.RecordBatch, columns: dict[str, pa.Array]) -> pa.RecordBatch:
    """Jobs with some columns of JOB_SCHEMA exchanged."""
    return pa.RecordBatch.from_arrays([columns.get(name, jobs[name]) for name in JOB_SCHEMA.names], schema=JOB_SCHEMA)


def _renumbered(jobs: pa.RecordBatch, first: int) -> pa.RecordBatch:
    return replaced(jobs, {"sample_set": pc.add(jobs["sample_set"], pa.scalar(first, pa.int32()))})
